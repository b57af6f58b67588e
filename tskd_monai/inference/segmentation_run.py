"""A run over many cases, with a record of each: one that fails does not stop the others, and a second run resumes."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
from monai.data import MetaTensor
from monai.engines import SupervisedEvaluator
from monai.engines.utils import IterationEvents

from tskd_monai.data.fitness import UNLIKE_TRAINING
from tskd_monai.data.itk_file import data_files
from tskd_monai.data.task import REFUSE, WARN, Task
from tskd_monai.files.atomic import atomic_path, write_once
from tskd_monai.files.checksum import file_sha256
from tskd_monai.files.folder_lock import hold_tables
from tskd_monai.files.json_files import read_json, write_json
from tskd_monai.files.option_path import text_path
from tskd_monai.files.private_files import FOLDER, private_file
from tskd_monai.files.redaction import redact_paths
from tskd_monai.files.shard import parse_shard
from tskd_monai.inference.case_files import RECORDS
from tskd_monai.inference.case_records import (
    DONE,
    FAILED,
    INPUTS,
    read_case_record,
    sizes_field,
    write_summary,
    write_tables,
)
from tskd_monai.inference.cases import CASE, FAILURE, OUTPUT, WARNING, Case, own_shard
from tskd_monai.inference.failures import describe
from tskd_monai.inference.label_map_inferer import QUALITY
from tskd_monai.inference.outputs import WriterThread
from tskd_monai.trust.assessor import CaseAssessor
from tskd_monai.trust.reasons import short_reasons
from tskd_monai.trust.verdict import REJECT

logger = logging.getLogger(__name__)

MM3_PER_ML = 1000.0


class CasesFailedError(RuntimeError):
    """Cases of a run failed; the others are segmented, and the summary is written."""


class RejectedCaseError(ValueError):
    """A case has the verdict `reject`.

    Args:
        quality: quality of the case, for its record.
    """

    def __init__(self, quality: Mapping[str, Any]) -> None:
        reasons = short_reasons(quality["reasons"])
        super().__init__(
            f"Expected an image that the student can segment, found: {reasons}. Check the image; --force of "
            f"tskd segment, or --rejected {WARN} of the bundle, writes the segmentation all the same."
        )
        self.quality = quality


class SegmentationRun:
    """Segments cases, isolates failures and records the result of each case as soon as it is known.

    `output_dir/records/` has a file for each case, named by a hash of the input, the weights, the task and the
    settings; a case whose record says it is done is skipped. At the end, `summary.json` lists the records and
    `volumes.csv` the size of each class. None of these contains a path: `private/studies.csv` maps cases to inputs and
    has the complete message of those that failed. A shard writes the summary of its own cases; the last one to end
    writes the tables of all. What is kept in memory of a case is its path, not its record.

    Args:
        cases: cases of all processes.
        output_dir: output folder.
        task: task of the network.
        checkpoint: file that identifies the weights by its content.
        settings: other options that outputs depend on.
        writer: writes the evaluator's outputs; a case is done once it has written them.
        resume: skip cases that are done.
        assessor: assesses the cases in the inferer; None: no case is assessed.
        rejected: `refuse` fails a case whose verdict is `reject`, before anything is written; `warn` writes it.
        shard: part of the cases that this run segments, such as `3/8`, or `auto`; None: all. See `parse_shard`.

    Raises:
        ValueError: when `rejected` is another word, or the shard is malformed.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        output_dir: str | Path,
        task: Task,
        checkpoint: str | Path,
        settings: Mapping[str, Any],
        writer: WriterThread,
        resume: bool = True,
        assessor: CaseAssessor | None = None,
        rejected: str = WARN,
        shard: str | None = None,
    ) -> None:
        if rejected not in (WARN, REFUSE):
            raise ValueError(f"Expected --rejected {WARN} or {REFUSE}, found {rejected}.")
        self.assessor, self.rejected = assessor, rejected
        self.output_dir = text_path(output_dir, "output_dir")
        self.task, self.writer = task, writer
        self._private = private_file(self.output_dir, RECORDS)
        self._common: dict[str, Any] = {"task": task.hash, "weights": file_sha256(checkpoint), **settings}
        if task.unlike_training == REFUSE:  # a case that was segmented with a warning is done again
            self._common |= {"refuse": asdict(task)["training_images"]}
        if assessor is not None:
            self._common |= {QUALITY: assessor.fingerprint}
        self.shard = parse_shard(shard)
        self.cases, self._own = list(cases), own_shard(cases, self.shard)
        self._paths = {case["image"]: self._record_path(case) for case in self._own}
        self._owners: dict[str, str] = {}
        self.pending = [case for case in self._own if not (resume and self._is_done(case))]
        """Cases that are left for this process."""
        self._finished = 0
        self._unsaved: dict[Path, dict[str, Any]] = {}
        """Records that could not be written."""
        self._started = time.monotonic()

    def run(self, evaluator: SupervisedEvaluator) -> None:
        """Segments the pending cases and writes `summary.json` and `volumes.csv`; see `complete`."""
        self.complete(evaluator.run)

    def complete(self, segment_pending: Callable[[], None]) -> None:
        """Writes `summary.json` and `volumes.csv` once the pending cases, if any, are segmented.

        Args:
            segment_pending: calls `segment` for each pending case.

        Raises:
            CasesFailedError: at the end, when a case has failed; lists these with the reason.
        """
        before = len(self._own) - len(self.pending)
        if before:
            logger.info("%d cases are done already; --resume False segments them again.", before)
        self._started = time.monotonic()
        if self.pending:
            segment_pending()
        self._summarise()

    def segment(self, engine: Any, batch: dict[str, Any]) -> Any:
        """Returns the output for one case, or None if it failed: the evaluator's `iteration_update`."""
        case = self._case_of(batch)
        started = time.monotonic()
        if FAILURE in batch:
            self.writer.submit(partial(self._fail, case, batch[FAILURE][0]))
            return None
        name = batch[OUTPUT][0]
        try:
            self._require_own_name(case, name)
            output = engine._iteration(engine, batch)
        except Exception as error:  # any error concerns only this case
            logger.debug("The case failed here:", exc_info=True)
            self.writer.submit(partial(self._end_failed, case, error, name))
            return None
        self.writer.submit(partial(self._end, case, name, output[0]["pred"], started, batch[WARNING][0]))
        return output

    def _case_of(self, batch: dict[str, Any]) -> Case:
        return self.pending[int(batch[CASE][0])]

    def check_verdict(self, engine: Any) -> None:
        """Raises when the case that an engine has segmented is to be refused; nothing of it is written yet.

        Raises:
            RejectedCaseError: when its verdict is `reject`, and such cases are refused.
        """
        quality = _quality(engine.state.output["pred"])
        if self.rejected == REFUSE and quality.get("verdict") == REJECT:
            raise RejectedCaseError(quality)

    def _end(self, case: Case, name: str, pred: MetaTensor, started: float, warning: str) -> None:
        """Records a case after its writes, in the writer's thread."""
        try:
            if failure := self.writer.take_failure():
                raise failure
            sizes = class_sizes(pred, self.task)
        except Exception as error:  # a failed write can only be this case's
            self._fail(case, describe(error), name)
            return
        seconds = round(time.monotonic() - started, 2)
        field, _ = sizes_field(self.task)
        outputs = sorted(path.name for path in self.writer.take_written())
        found: dict[str, Any] = {"name": name, "seconds": seconds, "outputs": outputs, field: sizes}
        found |= {UNLIKE_TRAINING: warning} if warning else {}
        found |= {QUALITY: quality} if (quality := _quality(pred)) else {}
        self._record(case, DONE, **found)

    def _end_failed(self, case: Case, error: Exception, name: str) -> None:
        self.writer.take_failure()  # of this case's earlier writes
        self.writer.take_written()
        quality = error.quality if isinstance(error, RejectedCaseError) else {}
        self._fail(case, describe(error), name, **({QUALITY: quality} if quality else {}))

    def _record_path(self, case: Case) -> Path:
        identity = json.dumps({**self._common, **case, "files": _fingerprint(Path(case["image"]))}, sort_keys=True)
        return self.output_dir / RECORDS / f"{hashlib.sha256(identity.encode()).hexdigest()[:16]}.json"

    def _is_done(self, case: Case) -> bool:
        record = self._finished_record(self._paths[case["image"]])
        if record is None or record["status"] != DONE:
            return False
        self._owners[record["name"]] = case["image"]
        return True

    def _finished_record(self, path: Path) -> dict[str, Any] | None:
        """Returns the record of a case that failed, or is done and has all of its outputs; None of any other."""
        if not path.is_file():
            return None
        try:
            record = read_case_record(path, self.task)
        except ValueError as error:
            logger.warning("The case is segmented again: %s", error)
            return None
        return record if all((self.output_dir / name).is_file() for name in record.get("outputs", [])) else None

    def _require_own_name(self, case: Case, name: str) -> None:
        """Raises ValueError when another case has the name already: copies of a series."""
        owner = self._owners.setdefault(name, case["image"])
        if owner == case["image"] and self.shard is not None and "name" not in case:
            owner = self._owner_among_shards(case["image"], name)
        if owner != case["image"]:
            raise ValueError(
                f"Expected a different name for each case, found {name} twice; the inputs hold the series twice, "
                "remove one."
            )

    def _owner_among_shards(self, image: str, name: str) -> str:
        """Returns the image, of this shard or another, that was first to have a name; one that is gone has none."""
        path = private_file(self.output_dir, "names") / f"{name}.txt"
        path.parent.mkdir(exist_ok=True)
        write_once(path, image)
        owner = path.read_text(encoding="utf-8")
        if owner == image or any(owner == case["image"] for case in self.cases):
            return owner
        with atomic_path(path) as temporary:
            temporary.write_text(image, encoding="utf-8")
        return image

    def _fail(self, case: Case, message: str, name: str = "", **content: Any) -> None:
        redacted = redact_paths(message, [case["image"]], self.output_dir)
        name = name or case.get("name", "")
        key = self._paths[case["image"]].stem
        self._record(case, FAILED, name=name, message=redacted, private_message=message, **content)
        logger.error("Case %s failed: %s", key, redacted)

    def _record(self, case: Case, status: str, private_message: str = "", **content: Any) -> None:
        """Writes the record of a case and, privately, its input; logs the progress."""
        path = self._paths[case["image"]]
        record = {"study": path.stem, "status": status, **content}
        private = {"input": self._input_of(case), "message": private_message}
        try:
            write_json(self._private / path.name, private)
            write_json(path, record)
        except OSError as error:  # disk full, which the summary will report
            logger.error("A case's record was not written: %s", error)
            self._unsaved[path] = {**record, "private": private}
        self._progress(case, status)

    def _input_of(self, case: Case) -> str:
        """Returns the path by which the user knows a case."""
        return str(Path(case["image"]).absolute())

    def _progress(self, case: Case, status: str) -> None:
        """Logs how many cases are finished, after each."""
        self._finished += 1
        left = (time.monotonic() - self._started) / self._finished * (len(self.pending) - self._finished)
        logger.info("%d of %d cases, about %.0f s left.", self._finished, len(self.pending), left)

    def _summarise(self) -> None:
        """Writes the summary of all processes' cases once all are finished; raises if any failed."""
        idist.barrier()
        found = self._records(self.cases if self.shard is None else self._own)
        failed = [record for record in found if record["status"] == FAILED]
        try:
            if self.shard is not None:
                write_summary(found, self.output_dir / f"summary.{self.shard.label}.json")
                self._write_tables_of_all_shards()
            elif idist.get_rank() == 0:
                self._write_tables(found)
        except OSError as error:
            if not failed:
                raise
            logger.error("The summary was not written: %s", error)  # for the reason of the failures raised below
        unlike = sum(UNLIKE_TRAINING in record for record in found)
        if unlike:
            logger.warning(
                "%d of %d cases are unlike the training images; summary.json states how.", unlike, len(found)
            )
        if failed:
            listing = "".join(f"\n  {record['name'] or record['study']}: {record['message']}" for record in failed)
            raise CasesFailedError(
                f"{len(failed)} of {len(found)} cases failed; {FOLDER}/{INPUTS} states their inputs:{listing}"
            )

    def _records(self, cases: Sequence[Case]) -> list[dict[str, Any]]:
        """Returns the records of the cases that have one."""
        paths = [self._paths.get(case["image"]) or self._record_path(case) for case in cases]
        known = [path for path in paths if path in self._unsaved or path.is_file()]
        return [_public(self._unsaved[path]) if path in self._unsaved else read_case_record(path, self.task)
                for path in known]  # fmt: skip

    def _write_tables_of_all_shards(self) -> None:
        """Writes the tables of all cases if no other shard has cases left; one shard at a time."""
        with hold_tables(self.output_dir):
            found = self._records(self.cases)
            left = len(self.cases) - len(found)
            if left:
                logger.info("%d cases are left to other shards, the last of which writes volumes.csv.", left)
            else:
                self._write_tables(found)

    def _write_tables(self, found: Sequence[Mapping[str, Any]]) -> None:
        write_tables(found, self.task, self.output_dir, self._private.parent, self.assessor is not None, self._input)

    def _input(self, key: str) -> dict[str, str]:
        """Returns input and complete message of a case."""
        unsaved = next((record["private"] for path, record in self._unsaved.items() if path.stem == key), None)
        path = self._private / f"{key}.json"
        return unsaved or (dict(read_json(path)) if path.is_file() else {"input": "", "message": ""})


class SegmentationEvaluator(SupervisedEvaluator):
    """MONAI's evaluator over the pending cases of a run; programs that only call `run` get the summary and the errors.

    Args:
        segmentation_run: run whose cases the data loader reads.
        options: arguments of `SupervisedEvaluator`.
    """

    def __init__(self, segmentation_run: SegmentationRun, **options: Any) -> None:
        super().__init__(iteration_update=segmentation_run.segment, **options)
        self.segmentation_run = segmentation_run
        self.add_event_handler(IterationEvents.FORWARD_COMPLETED, segmentation_run.check_verdict)

    def run(self, global_epoch: int = 1) -> None:  # type: ignore[override]  # as in MONAI
        """Segments the pending cases, if any, and writes the summary; see `SegmentationRun.complete`.

        Args:
            global_epoch: part of MONAI's interface.
        """
        self.segmentation_run.complete(partial(super().run, global_epoch))


def class_sizes(pred: MetaTensor, task: Task) -> dict[str, float]:
    """Returns the size of each class of a label map (1, X, Y, Z): mL, or pixels in a task of 2D image files.

    Counts plane by plane, which saves memory.
    """
    affine = np.asarray(pred.meta["original_affine"], dtype=np.float64)
    voxel = 1.0 if task.axcodes is None else abs(float(np.linalg.det(affine[:3, :3]))) / MM3_PER_ML
    largest = max(task.label_values)
    planes = np.moveaxis(np.asarray(pred)[0], -1, 0)
    counts = np.sum([np.bincount(plane.ravel(), minlength=largest + 1) for plane in planes], axis=0)
    return {name: float(counts[value]) * voxel for value, name in task.foreground.items()}


def _quality(pred: MetaTensor) -> dict[str, Any]:
    """Returns the quality of a case that the inferer has stored in its label map; empty if it was not assessed."""
    return dict(json.loads(pred.meta.get(QUALITY, "{}")))


def _fingerprint(path: Path) -> list[Any]:
    """Returns a value that changes with the file, or with any file of the folder."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path, *data_files(path)]
    states = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]
    return [len(states), hashlib.sha256(repr(states).encode()).hexdigest()]


def _public(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != "private"}

"""The stages that add classes to a student: predictions of what was not drawn, training, and scores."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tskd_monai.bundle.stage_store import Stage
from tskd_monai.commands.task_files import plan_dataset
from tskd_monai.commands.train.stages import SCORING, STUDENT_RESULTS, PlannedDataset, read_dataset
from tskd_monai.commands.user_data import datalist_of, dataset_name
from tskd_monai.data.datalist import load_datalist
from tskd_monai.data.growing_task import extended_task
from tskd_monai.data.planning.rules import declared_labels, ignored_value
from tskd_monai.data.task import Task, load_task, save_task
from tskd_monai.distillation.known_structures import completed, lacking
from tskd_monai.files.checksum import ContentHashes, file_sha256
from tskd_monai.files.json_files import read_json, write_json
from tskd_monai.files.private_files import private_file
from tskd_monai.files.shipped import BUNDLES

KNOWN, STUDENT = "known_structures", "student"
SCORES = f"{SCORING}{STUDENT}"


def extension_stages(args: argparse.Namespace, student: Path) -> list[Stage]:
    """Returns the stages, after planning the extended task.

    Args:
        args: the parsed command line of `tskd extend`.
        student: folder of the student bundle.

    Raises:
        ValueError: if the data do not extend the student's task, or training would refuse a case.
    """
    known = load_task(student / "configs" / "task.json")
    source = datalist_of(args.data, args.output_dir, args.labels, args.seed)
    declared = load_datalist(source, args.fold)
    name = str(declared.get("name") or dataset_name(args.data))
    task = extended_task(known, declared_labels(declared), name, ignored_value(declared))
    given = private_file(args.output_dir, "extended_task.json")
    save_task(task, given)
    datalist, task_file, task = plan_dataset(
        source, args.output_dir, fold=args.fold, datalist_dir=given.parent, task_file=given
    )
    hashes = ContentHashes(private_file(args.output_dir.resolve(), "content_hashes.json"))
    dataset = read_dataset(datalist, task_file, task, hashes)
    hashes.save()
    return _Builder(args, student, known, dataset).stages()


class _Builder:
    """Builds the stages for one student and dataset."""

    def __init__(self, args: argparse.Namespace, student: Path, known: Task, dataset: PlannedDataset) -> None:
        self.args, self.student, self.known, self.dataset = args, student, known, dataset
        self.folder = args.output_dir.resolve()
        self.sections = load_datalist(dataset.datalist)
        self.device = {"device": args.device} if args.device else {}

    def stages(self) -> list[Stage]:
        """Returns the stages in their order; predictions and scores only if there is a case for them."""
        needed = lacking(self.sections["training"], self.known)
        weights = {"student": {"weights": file_sha256(self.student / "models" / "model.pt")}}
        architecture = str(read_json(self.student / "configs" / "inference.json")["student"])
        predictions = Stage(
            KNOWN, "Predictions of structures that were not drawn", self.student, ["inference.json"],
            {"section": "training"}, partial(self._prediction_paths, needed),
            {**weights, "data": {"training labels": self.dataset.digests["training labels"]}}, results=("*_seg.*",),
        )  # fmt: skip
        training = Stage(
            STUDENT, "Training with the new classes", BUNDLES / "distillation", ["fine_tune.yaml"],
            {"student": architecture, "max_epochs": self.args.max_epochs, "seed": self.args.seed,
             "learning_rate": self.args.learning_rate, "validate_initial": False}, self._training_paths,
            {**weights, **self.dataset.student_inputs("training labels", "validation labels")},
            [KNOWN] if needed else [], results=STUDENT_RESULTS,
        )  # fmt: skip
        scores = Stage(
            SCORES, "Test of the extended student", self.folder / STUDENT, ["inference.json", "evaluate.json"],
            {"section": "test"}, partial(dict, self.device, datalist=self.dataset.datalist),
            {"data": {"test labels": self.dataset.digests["test labels"]}}, [STUDENT], results=("metrics.csv",),
            incremental=("test labels",),
        )  # fmt: skip
        return [*([predictions] if needed else []), training, *([scores] if self.sections["test"] else [])]

    def _prediction_paths(self, needed: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Returns the paths of the inference, with a datalist of the cases in which a known structure was not drawn."""
        return {"datalist": self._written("known_structures.json", {"training": list(needed)}), **self.device}

    def _training_paths(self) -> dict[str, Any]:
        """Returns the paths of training, with a datalist of completed labels."""
        folder = self.dataset.datalist.parent / KNOWN
        training = completed(self.sections["training"], self.known, self.dataset.task, self.folder / KNOWN, folder)
        path = self._written("extended.json", {**self.sections, "training": training})
        return {"datalist": path, "task": self.dataset.task_file, "initial_student": self.student, **self.device}

    def _written(self, name: str, content: Mapping[str, Any]) -> Path:
        path = self.dataset.datalist.parent / name
        write_json(path, dict(content))
        return path

"""The records of the cases of a run, and the tables of them: results, sizes, verdicts, and, privately, inputs."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tskd_monai.data.fitness import UNLIKE_TRAINING
from tskd_monai.data.task import Task
from tskd_monai.files.atomic import atomic_path
from tskd_monai.files.json_files import Fields, check_fields, is_a, read_json, write_json
from tskd_monai.inference.label_map_inferer import QUALITY
from tskd_monai.trust.quality_table import QUALITY_FIELDS, QUALITY_TABLE, write_quality_table

Record = Mapping[str, Any]
SUMMARY, VOLUMES, INPUTS = "summary.json", "volumes.csv", "studies.csv"
DONE, FAILED = "done", "failed"
ADVICE = "delete it to segment the case again"
FIELDS: Fields = {"study": (str,), "status": (str,), "name": (str,)}
FIELDS_OF: dict[str, Fields] = {DONE: {"outputs": (list,)}, FAILED: {"message": (str,)}}


def sizes_field(task: Task) -> tuple[str, str]:
    """Returns the field of a record with the size of each class, and the unit in tables.

    Sizes are in mL, and in pixels for 2D image files, which have no spacing.
    """
    return ("pixels", "pixels") if task.axcodes is None else ("volumes_ml", "mL")


def read_case_record(path: Path, task: Task) -> dict[str, Any]:
    """Returns the record of a case: key, status, name, and the outputs or the reason of the failure.

    A case that is done also has the size of each class, and how it differs from the training images if it does.

    Args:
        path: file of the record.
        task: task of the run, whose classes have sizes.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the record is malformed; names file and field.
    """
    record = read_json(path)
    check_fields(record, FIELDS, str(path), ADVICE)
    if record["status"] not in FIELDS_OF:
        raise ValueError(f"Expected status in {path} to be {DONE} or {FAILED}, found {record['status']!r}; {ADVICE}.")
    check_fields(record, FIELDS_OF[record["status"]], str(path), ADVICE)
    if UNLIKE_TRAINING in record:
        check_fields(record, {UNLIKE_TRAINING: (str,)}, str(path), ADVICE)
    if QUALITY in record:
        check_fields(record, {QUALITY: (dict,)}, str(path), ADVICE)
        check_fields(record[QUALITY], QUALITY_FIELDS, f"{path}, {QUALITY}", ADVICE)
    if record["status"] == DONE:
        field, _ = sizes_field(task)
        check_fields(record, {field: (dict,)}, str(path), ADVICE)
        sizes: Fields = dict.fromkeys(task.foreground.values(), (float,))
        check_fields(record[field], sizes, f"{path}, {field}", ADVICE)
        if not all(is_a(name, str) and name == Path(name).name for name in record["outputs"]):
            raise ValueError(f"Expected outputs in {path} to be names of files, found {record['outputs']}; {ADVICE}.")
    return dict(record)


def write_summary(records: Sequence[Record], path: Path) -> None:
    """Writes the records of cases, and how many are done and have failed, as JSON."""
    done = sum(record["status"] == DONE for record in records)
    write_json(path, {"done": done, "failed": len(records) - done, "studies": list(records)})


def write_tables(
    records: Sequence[Record],
    task: Task,
    output_dir: Path,
    private: Path,
    assessed: bool,
    input_of: Callable[[str], Mapping[str, str]],
) -> None:
    """Writes the tables of a run's cases.

    Args:
        records: records of all cases.
        task: task of the run.
        output_dir: folder of `summary.json` and `volumes.csv`.
        private: folder of `studies.csv`, the key to the others.
        assessed: whether cases have verdicts, of which `qc.csv` is the table.
        input_of: returns `input` and `message` of a case, which are private, by its key.
    """
    structures = list(task.foreground.values())
    write_summary(records, output_dir / SUMMARY)
    _write_volumes(records, task, output_dir / VOLUMES)
    if assessed:
        write_quality_table(records, structures, output_dir / QUALITY_TABLE)
    _write_inputs(records, private / INPUTS, input_of)


def _write_volumes(records: Sequence[Record], task: Task, path: Path) -> None:
    classes = list(task.foreground.values())
    field, unit = sizes_field(task)
    digits = 3 if unit == "mL" else 0
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["study", *(f"{name} ({unit})" for name in classes)])
        for record in records:
            if record["status"] == DONE:
                writer.writerow([record["name"], *(f"{record[field][name]:.{digits}f}" for name in classes)])


def _write_inputs(records: Sequence[Record], path: Path, input_of: Callable[[str], Mapping[str, str]]) -> None:
    """Writes the input of each case, the key to the other files, which stays private."""
    fields = ("study", "name", "status", "input", "message")
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, fields)
        writer.writeheader()
        for record in records:
            writer.writerow({**{name: record[name] for name in fields[:3]}, **input_of(record["study"])})

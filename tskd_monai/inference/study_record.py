"""What a run has written down about one study, read back with its fields checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tskd_monai.data.image_ranges import UNLIKE_TRAINING
from tskd_monai.data.json_fields import Fields, check_fields, is_a
from tskd_monai.data.task import Task
from tskd_monai.files.atomic import read_json

DONE, FAILED = "done", "failed"
ADVICE = "remove it, and the study is done again"
FIELDS: Fields = {"study": (str,), "status": (str,), "name": (str,)}
FIELDS_OF: dict[str, Fields] = {DONE: {"outputs": (list,)}, FAILED: {"message": (str,)}}


def sizes_field(task: Task) -> tuple[str, str]:
    """Returns the field of a record that holds the size of each class, and its unit in tables.

    Volumes have mL; a 2D image file has no spacing, so its classes have pixels.
    """
    return ("pixels", "pixels") if task.axcodes is None else ("volumes_ml", "mL")


def read_study_record(path: Path, task: Task) -> dict[str, Any]:
    """Returns the record of a study: its key, status and name, and what was written, or why it failed.

    A study that was done has its outputs, the size of each class and perhaps how it differs from the training images.

    Args:
        path: of the record.
        task: of the run, whose classes have sizes.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is not what a run writes; names file and field.
    """
    record = read_json(path)
    check_fields(record, FIELDS, str(path), ADVICE)
    if record["status"] not in FIELDS_OF:
        raise ValueError(f"Expected status in {path} to be {DONE} or {FAILED}, found {record['status']!r}; {ADVICE}.")
    check_fields(record, FIELDS_OF[record["status"]], str(path), ADVICE)
    if UNLIKE_TRAINING in record:
        check_fields(record, {UNLIKE_TRAINING: (str,)}, str(path), ADVICE)
    if record["status"] == DONE:
        field, _ = sizes_field(task)
        check_fields(record, {field: (dict,)}, str(path), ADVICE)
        sizes: Fields = dict.fromkeys(task.foreground.values(), (float,))
        check_fields(record[field], sizes, f"{path}, {field}", ADVICE)
        if not all(is_a(name, str) and name == Path(name).name for name in record["outputs"]):
            raise ValueError(f"Expected outputs in {path} to be names of files, found {record['outputs']}; {ADVICE}.")
    return dict(record)

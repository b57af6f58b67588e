"""The files of a plan: the task, and its record beside the datalist."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tskd_monai.data.planning.record import PlanRecord, check_written
from tskd_monai.data.task import Task, load_task, save_task
from tskd_monai.files.checksum import file_sha256
from tskd_monai.files.json_files import read_json, write_json


@dataclass(frozen=True)
class PlanFiles:
    """Paths of the files of a plan.

    Attributes:
        task: path of the task.
        folder: folder of `datalist.json` and `plan.json`, which may name patients.
    """

    task: Path
    folder: Path

    @property
    def datalist(self) -> Path:
        """Path of the datalist with absolute paths and labelled slices."""
        return self.folder / "datalist.json"

    @property
    def record(self) -> Path:
        """Path of the record of the plan."""
        return self.folder / "plan.json"

    def write(self, task: Task, datalist: dict[str, Any], record: PlanRecord, replan: bool) -> None:
        """Writes the files that differ; a replaced task or replaced labelled slices are kept beside the new ones.

        Raises:
            ValueError: when the existing datalist has other training cases or slices.
        """
        existing = _content(self.datalist)
        if isinstance(existing, dict) and not replan:
            check_written(existing, datalist, self.datalist.name)
        if not _holds(self.task, task):
            self.record.unlink(missing_ok=True)  # after a kill from here on, the next call plans and compares again
            _keep_beside(self.task)
            save_task(task, self.task)
        if existing != datalist:
            if replan:
                _keep_beside(self.datalist)
            write_json(self.datalist, datalist)
        if _content(self.record) != record.content():
            write_json(self.record, record.content())


def _holds(path: Path, task: Task) -> bool:
    """Returns whether a file states this task, in any JSON layout."""
    try:
        return path.is_file() and load_task(path) == task
    except ValueError:  # damaged: planned again
        return False


def _content(path: Path) -> Any:
    """Returns the content of a JSON file that may be overwritten; None if it is missing or damaged."""
    try:
        return read_json(path) if path.is_file() else None
    except ValueError:
        return None


def _keep_beside(path: Path) -> None:
    if path.is_file():
        path.replace(path.with_name(f"{path.stem}.before-{file_sha256(path)[:8]}{path.suffix}"))

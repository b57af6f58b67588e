"""Where a plan stands: the task, and beside the datalist what it was planned from."""

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
    """Where a plan stands.

    Attributes:
        task: the task's file.
        folder: of `datalist.json` and `plan.json`, which may name patients.
    """

    task: Path
    folder: Path

    @property
    def datalist(self) -> Path:
        """The datalist with absolute paths and labelled slices."""
        return self.folder / "datalist.json"

    @property
    def record(self) -> Path:
        """What the task was planned from."""
        return self.folder / "plan.json"

    def write(self, task: Task, datalist: dict[str, Any], record: PlanRecord, replan: bool) -> None:
        """Writes what differs from the files; a task or labelled slices that give way are kept beside.

        Raises:
            ValueError: when the datalist that stands there has other cases or slices to learn from.
        """
        existing = _content(self.datalist)
        if isinstance(existing, dict) and not replan:
            check_written(existing, datalist, self.datalist.name)
        if not _holds(self.task, task):
            self.record.unlink(missing_ok=True)  # killed from here on, the next call plans and compares
            _keep_beside(self.task)
            save_task(task, self.task)
        if existing != datalist:
            if replan:
                _keep_beside(self.datalist)
            write_json(self.datalist, datalist)
        if _content(self.record) != record.content():
            write_json(self.record, record.content())


def _holds(path: Path, task: Task) -> bool:
    """Whether a file states this task, however it is laid out."""
    try:
        return path.is_file() and load_task(path) == task
    except ValueError:  # damaged, and to be planned again
        return False


def _content(path: Path) -> Any:
    """Returns the content of a JSON file that is ours to write over, None where there is none or it is damaged."""
    try:
        return read_json(path) if path.is_file() else None
    except ValueError:
        return None


def _keep_beside(path: Path) -> None:
    if path.is_file():
        path.replace(path.with_name(f"{path.stem}.before-{file_sha256(path)[:8]}{path.suffix}"))

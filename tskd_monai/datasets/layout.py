"""Finds the files of a download, and reports what is missing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path


def require_folder(path: Path, dataset: str, layout: str) -> Path:
    """Returns a folder that must exist.

    Args:
        path: expected path.
        dataset: name of the dataset, for the message.
        layout: layout of the official download, for the message.

    Raises:
        FileNotFoundError: if the folder does not exist.
    """
    if not path.is_dir():
        raise FileNotFoundError(
            f"{dataset}: expected the folder {path.name} at {path}, found {_contents(path.parent)}; the official "
            f"layout is {layout}. Point --source to the folder that holds it."
        )
    return path


def require_file(path: Path, dataset: str, layout: str) -> Path:
    """Returns a file that must exist.

    Args:
        path: expected path.
        dataset: name of the dataset, for the message.
        layout: layout of the official download, for the message.

    Raises:
        FileNotFoundError: if the file does not exist.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{dataset}: expected the file {path.name} at {path}, found none; the official layout is {layout}. "
            "Unpack the download again."
        )
    return path


def first_folder(candidates: Iterable[Path], dataset: str, layout: str) -> Path:
    """Returns the first of the folders that exists; if none does, the message names the first.

    Raises:
        FileNotFoundError: if none exists.
    """
    paths = list(candidates)
    return next((path for path in paths if path.is_dir()), None) or require_folder(paths[0], dataset, layout)


def files_in(folder: Path, pattern: str, dataset: str, layout: str) -> list[Path]:
    """Returns the files whose entire name matches a regular expression, sorted by the numbers in their names.

    Raises:
        FileNotFoundError: if the folder is missing or no file matches.
    """
    require_folder(folder, dataset, layout)
    found = [path for path in folder.iterdir() if path.is_file() and re.fullmatch(pattern, path.name)]
    if not found:
        raise FileNotFoundError(
            f"{dataset}: expected files like {pattern} in {folder}, found {_contents(folder)}; the official layout is "
            f"{layout}. Unpack the download again."
        )
    return sorted(found, key=natural_key)


def natural_key(path: Path) -> tuple[Sequence[int], str]:
    """Returns a sort key that orders `2.png` before `10.png`."""
    return [int(number) for number in re.findall(r"\d+", path.name)], path.name


def _contents(folder: Path) -> str:
    """Returns a short listing of a folder."""
    if not folder.is_dir():
        return "no such folder"
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return shown or "an empty folder"

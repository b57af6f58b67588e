"""Removes paths from messages: folders and files exported by a scanner are often named after patients."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable
from pathlib import Path

UID = re.compile(r"\b[0-2]((\.\d+){5,}|(\.\d+)+\.\d{10,}(\.\d+)*)\b")
"""At least six components, or one as long as a UUID (2.25.…); versions and measurements have neither."""

SPEAKING = re.compile(r"[^\W\d_]{3}|\d{4}")
"""Three letters or four digits in a row: could be a name, number or date of birth. `IM0` and `17` could not, and occur
in any message."""

ORDINARY = (
    "case", "cases", "data", "dicom", "file", "files", "folder", "image", "images", "label", "labels",
    "model", "nifti", "pixels", "scan", "scans", "series", "slice", "slices", "study", "studies",
    "test", "training", "validation", "volume", "volumes", "voxels",
)  # fmt: skip
"""Folder names that are ordinary words of messages and identify nobody."""


def redact_paths(
    message: str, inputs: Iterable[str | Path], output_dir: str | Path | None = None, shown: Container[str] = ()
) -> str:
    """Returns a message without the paths of inputs, the file names of a series, and DICOM UIDs.

    A single file keeps its own name, since its outputs are named after it.

    Args:
        message: message about a case, such as why it was rejected.
        inputs: paths it may name: files, or folders of series.
        output_dir: output folder of the run.
        shown: names that are reported beside the message, such as that of the case.
    """
    paths = [Path(path) for path in inputs]
    for path in paths:
        message = _without_path(message, path)
    if output_dir is not None:
        message = _replaced(message, _spellings(Path(output_dir)), "the output folder")
    for path in paths:
        message = _without_parents(message, path, shown)
    return UID.sub("(a UID)", message)


def _without_path(message: str, path: Path) -> str:
    for number, file in enumerate(_files_of(path), start=1):
        message = _replaced(message, _spellings(file), f"file {number} of the series")
        message = _without_name(message, file.name, f"file {number} of the series")
    for folder in _folders_of(path):
        message = _replaced(message, _spellings(folder), "a folder of the study")
    return _replaced(message, _spellings(path), path.name if path.is_file() else "the study's folder")


def _without_parents(message: str, path: Path, shown: Container[str]) -> str:
    for parent in path.absolute().parents:
        if parent.name:
            message = _replaced(message, [f"{parent}/", str(parent)], "")
    for parent in path.parents:
        if parent.name and not parent.is_absolute():
            message = re.sub(rf"(?<![\w/.]){re.escape(str(parent))}/", "", message)
    for name in _folder_names(path):
        if name not in shown:
            message = _without_name(message, name, "(a folder)")
    return message


def _folder_names(path: Path) -> list[str]:
    """Returns the folder names that a message may contain without their paths, longest first."""
    folders = [path.parent, *([] if path.is_file() else [path, *_folders_of(path)])]
    names = {folder.name for folder in folders} | {folder.absolute().name for folder in folders}
    return sorted((name for name in names if name.lower() not in ORDINARY), key=len, reverse=True)


def _without_name(message: str, name: str, by: str) -> str:
    return re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", by, message) if SPEAKING.search(name) else message


def _files_of(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else []


def _folders_of(path: Path) -> list[Path]:
    """Returns the subfolders of a case's folder, deepest first."""
    return sorted((folder for folder in path.rglob("*") if folder.is_dir()), key=lambda folder: -len(folder.parts))


def _spellings(path: Path) -> list[str]:
    """Returns the spellings of a path in messages, longest first; not `.` or a bare name."""
    spellings = {str(path), str(path.absolute()), str(path.resolve())}
    return sorted((text for text in spellings if "/" in text or "\\" in text), key=len, reverse=True)


def _replaced(message: str, texts: list[str], by: str) -> str:
    for text in texts:
        message = message.replace(text, by)
    return message

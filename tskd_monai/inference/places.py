"""Messages without the places that they speak of: folders and files of a scanner's export are called after patients."""

from __future__ import annotations

import re
from pathlib import Path

UID = re.compile(r"\b[0-2](\.\d+){5,}\b")
SPEAKING = re.compile(r"[^\W\d_]{3}")
"""Three letters in a row: what could be somebody's name. `IM0` and `17` are not, and occur in any message."""


def without_places(message: str, image: str | Path, output_dir: str | Path) -> str:
    """Returns a message in which the paths of a study, the names of a series' files, and DICOM UIDs are not named.

    Args:
        message: about a study, such as why it was refused.
        image: path of the study: a file, whose own name is the study's, or the folder of a series.
        output_dir: of the run.
    """
    image = Path(image)
    for number, path in enumerate(_files_of(image), start=1):
        message = _replaced(message, _spellings(path), f"file {number} of the series")
        if SPEAKING.search(path.name):
            message = re.sub(rf"(?<!\w){re.escape(path.name)}(?!\w)", f"file {number} of the series", message)
    for folder in _folders_of(image):
        message = _replaced(message, _spellings(folder), "a folder of the study")
    message = _replaced(message, _spellings(image), image.name if image.is_file() else "the study's folder")
    message = _replaced(message, _spellings(Path(output_dir)), "the output folder")
    for parent in image.absolute().parents:
        if len(parent.parts) > 1:
            message = _replaced(message, [f"{parent}/", str(parent)], "")
    return UID.sub("(a UID)", message)


def _files_of(image: Path) -> list[Path]:
    return sorted(path for path in image.rglob("*") if path.is_file()) if image.is_dir() else []


def _folders_of(image: Path) -> list[Path]:
    """Returns the folders below a study's, the deepest first."""
    return sorted((path for path in image.rglob("*") if path.is_dir()), key=lambda path: -len(path.parts))


def _spellings(path: Path) -> list[str]:
    """Returns the ways in which a message may write a path, the longest first; not `.` or a bare name."""
    spellings = {str(path), str(path.absolute()), str(path.resolve())}
    return sorted((text for text in spellings if "/" in text or "\\" in text), key=len, reverse=True)


def _replaced(message: str, texts: list[str], by: str) -> str:
    for text in texts:
        message = message.replace(text, by)
    return message

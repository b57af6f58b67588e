"""What outputs are called: after the case, never after a path."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tskd_monai.data.image_file import IMAGE_SUFFIXES
from tskd_monai.data.task import Task

SEGMENTATION_POSTFIX = "seg"
MAX_NAME_BYTES = 200
"""File systems take 255: this leaves room for what is put before a name while it is written, and for its ending."""

IMAGE_ENDINGS = (".nii", ".nii.gz", *IMAGE_SUFFIXES)


def output_name(metadata: Mapping[str, Any], transform: Any) -> dict[str, str | None]:
    """Returns what `SaveImaged` names an output after: the item's name, a DICOM series' hash, or the file's name."""
    name = metadata.get("output_name") or metadata.get("series_hash")
    if not name:
        name = Path(str(metadata["filename_or_obj"])).name.removesuffix(".gz").removesuffix(".nii")
    # MONAI cuts off what follows the last dot, and a case may have one.
    return {"subject": f"{shortened(str(name))}.nii.gz", "idx": None}


def image_title(metadata: Mapping[str, Any]) -> str:
    """Returns what an image is called in messages: a file by its name, a DICOM series by its hash."""
    if metadata.get("series_hash"):
        return f"series {metadata['series_hash']}"
    return Path(str(metadata.get("filename_or_obj") or "the image")).name


def shortened(name: str) -> str:
    """Returns the name, or where a file system would not take it its beginning and a hash of all of it."""
    if len(name.encode()) <= MAX_NAME_BYTES:
        return name
    beginning = name.encode()[: MAX_NAME_BYTES - 9].decode(errors="ignore")
    return f"{beginning}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def output_suffix(task: Task) -> str:
    """Returns the ending of the task's segmentations: `.nii.gz` for volumes, `.png` for 2D images."""
    return ".png" if task.axcodes is None else ".nii.gz"


def segmentation_path(output_dir: str | Path, name: str, task: Task) -> Path:
    """Returns where the segmentation of a case of that name is written."""
    return Path(output_dir) / f"{shortened(name)}_{SEGMENTATION_POSTFIX}{output_suffix(task)}"


def file_stem(path: Path) -> str:
    """Returns the name of an image file without its ending, or of a folder as it is."""
    # A link's own name counts; `.` and `..` have none.
    name = path.name if path.name not in ("", "..") else path.resolve().name
    for ending in sorted(IMAGE_ENDINGS, key=len, reverse=True):
        if path.is_file() and name.lower().endswith(ending):
            return name[: -len(ending)]
    return name

"""Names of outputs: derived from the case, never from a path."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tskd_monai.data.image_file import IMAGE_SUFFIXES
from tskd_monai.data.task import Task

SEGMENTATION_POSTFIX = "seg"
MAX_NAME_BYTES = 200
"""Longest name of an output; file systems take 255 bytes, of which temporary prefixes and suffixes need some."""

IMAGE_ENDINGS = (".nii", ".nii.gz", *IMAGE_SUFFIXES)


def output_name(metadata: Mapping[str, Any], transform: Any) -> dict[str, str | None]:
    """Returns the output name for `SaveImaged`: the item's name, a DICOM series' hash, or the file's name."""
    name = metadata.get("output_name") or metadata.get("series_hash")
    if not name:
        name = Path(str(metadata["filename_or_obj"])).name.removesuffix(".gz").removesuffix(".nii")
    # MONAI cuts the name at the last dot, which a case may contain.
    return {"subject": f"{shortened(str(name))}.nii.gz", "idx": None}


def image_title(metadata: Mapping[str, Any]) -> str:
    """Returns the name of an image in messages: the file name, or the hash of a DICOM series."""
    if metadata.get("series_hash"):
        return f"series {metadata['series_hash']}"
    return Path(str(metadata.get("filename_or_obj") or "the image")).name


def shortened(name: str) -> str:
    """Returns the name, or its beginning and a hash if it is too long for file systems."""
    if len(name.encode()) <= MAX_NAME_BYTES:
        return name
    beginning = name.encode()[: MAX_NAME_BYTES - 9].decode(errors="ignore")
    return f"{beginning}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def output_suffix(task: Task) -> str:
    """Returns the suffix of the task's segmentations: `.nii.gz` for volumes, `.png` for 2D images."""
    return ".png" if task.axcodes is None else ".nii.gz"


def segmentation_path(output_dir: str | Path, name: str, task: Task) -> Path:
    """Returns the path of the segmentation of a case."""
    return Path(output_dir) / f"{shortened(name)}_{SEGMENTATION_POSTFIX}{output_suffix(task)}"


def file_stem(path: Path) -> str:
    """Returns the name of an image file without its suffix, or the name of a folder."""
    # A link's own name is used; `.` and `..` are resolved.
    name = path.name if path.name not in ("", "..") else path.resolve().name
    for ending in sorted(IMAGE_ENDINGS, key=len, reverse=True):
        if path.is_file() and name.lower().endswith(ending):
            return name[: -len(ending)]
    return name

"""Names of outputs: derived from the case, never from a path."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tskd_monai.data.image_file import IMAGE_SUFFIXES
from tskd_monai.data.meta_image import META_IMAGE_SUFFIXES
from tskd_monai.data.nrrd import NRRD_SUFFIXES
from tskd_monai.data.task import Task

SEGMENTATION_POSTFIX = "seg"
MAX_NAME_BYTES = 200
"""Longest name of an output; file systems take 255 bytes, of which temporary prefixes and suffixes need some."""

VOLUME_ENDINGS = (".nii", ".nii.gz", *NRRD_SUFFIXES, *META_IMAGE_SUFFIXES)
IMAGE_ENDINGS = (*VOLUME_ENDINGS, *IMAGE_SUFFIXES)

NIFTI, NRRD, SAME = "nifti", "nrrd", "same"
OUTPUT_FORMATS = (NIFTI, NRRD, SAME)


def output_name(metadata: Mapping[str, Any], transform: Any) -> dict[str, str | None]:
    """Returns the output name for `SaveImaged`: the item's name, a DICOM series' hash, or the file's name."""
    name = metadata.get("output_name") or metadata.get("series_hash")
    if not name:
        name = _without(VOLUME_ENDINGS, Path(str(metadata["filename_or_obj"])).name)
    # MONAI cuts the name at the last dot, which a case may contain.
    return {"subject": f"{shortened(str(name))}.nii.gz", "idx": None}


def case_title(metadata: Mapping[str, Any]) -> str:
    """Returns the name of an image's output in messages; an image in memory may have none."""
    if not any(metadata.get(key) for key in ("output_name", "series_hash", "filename_or_obj")):
        return image_title(metadata)
    return str(output_name(metadata, None)["subject"]).removesuffix(".nii.gz")


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


def check_output_format(output_format: str) -> None:
    """Raises ValueError if the format of volumes is not in `OUTPUT_FORMATS`."""
    if output_format not in OUTPUT_FORMATS:
        raise ValueError(f"Expected --output_format {', '.join(OUTPUT_FORMATS)}, found {output_format!r}.")


def output_suffix(task: Task, output_format: str = NIFTI, image: str | Path = "") -> str:
    """Returns the suffix of a segmentation: `.png` for a 2D image, else `.nii.gz` or `.nrrd`.

    Args:
        task: task of the network.
        output_format: format of volumes, one of `OUTPUT_FORMATS`; `same` is NRRD for an NRRD image, else NIfTI.
        image: path of the image.
    """
    if task.axcodes is None:
        return ".png"
    same = NRRD if str(image).lower().endswith(NRRD_SUFFIXES) else NIFTI
    return ".nrrd" if (same if output_format == SAME else output_format) == NRRD else ".nii.gz"


def segmentation_path(
    output_dir: str | Path, name: str, task: Task, output_format: str = NIFTI, image: str | Path = ""
) -> Path:
    """Returns the path of the segmentation of a case; arguments as for `output_suffix`."""
    suffix = output_suffix(task, output_format, image)
    return Path(output_dir) / f"{shortened(name)}_{SEGMENTATION_POSTFIX}{suffix}"


def file_stem(path: Path) -> str:
    """Returns the name of an image file without its suffix, or the name of a folder."""
    # A link's own name is used; `.` and `..` are resolved.
    name = path.name if path.name not in ("", "..") else path.resolve().name
    return _without(IMAGE_ENDINGS, name) if path.is_file() else name


def _without(endings: tuple[str, ...], name: str) -> str:
    """Returns a file name without the longest matching suffix."""
    for ending in sorted(endings, key=len, reverse=True):
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return name

"""The files of a folder, sorted: images, DICOM, segmentations of earlier runs, and others."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tskd_monai.data.dicom.header import is_dicom_file
from tskd_monai.data.dicom.series import file_kind
from tskd_monai.data.image_file import IMAGE_SUFFIXES
from tskd_monai.data.itk_file import data_files
from tskd_monai.data.nrrd import SEGMENTATION_SUFFIX
from tskd_monai.data.output_names import IMAGE_ENDINGS, SEGMENTATION_POSTFIX, file_stem
from tskd_monai.files.json_files import read_json

RECORDS = "records"
EARLIER = "earlier segmentation"
HASHED = re.compile(r"(^|_)[0-9a-f]{8}$")
"""Suffix of output names that identifies a DICOM series or a file in a subfolder of a tree."""


@dataclass(frozen=True)
class FolderFiles:
    """The files of one folder.

    Attributes:
        images: files of volumes (NIfTI, NRRD, MetaImage) and 2D image files.
        dicom: DICOM files.
        left_out: number of files of each other kind.
    """

    images: list[Path]
    dicom: list[Path]
    left_out: Counter[str]

    @property
    def flat_images(self) -> list[Path]:
        """The 2D image files among the images."""
        return [path for path in self.images if path.name.lower().endswith(IMAGE_SUFFIXES)]


def sort_files(folder: Path, files: Iterable[Path]) -> FolderFiles:
    """Returns the files of a folder by kind.

    Hidden files are ignored: macOS leaves a `._scan.nii.gz` beside each file on foreign disks. The data file of a
    detached header counts as part of its image.

    Args:
        folder: folder of the files.
        files: its files, each once.
    """
    visible = sorted(path for path in files if not path.name.startswith("."))
    named = [path for path in visible if path.name.lower().endswith(IMAGE_ENDINGS)]
    stems = stems_of(named)
    written = _recorded_outputs(folder)
    earlier = [path for path in named if path.name in written or is_segmentation(path, stems)]
    parts = {part for path in named for part in data_files(path)}
    rest = [path for path in visible if path not in parts.union(named)]
    dicom = [path for path in rest if path.name not in written and is_dicom_file(path)]
    left_out = Counter(file_kind(path) for path in rest if path not in set(dicom))
    if earlier:
        left_out[EARLIER] = len(earlier)
    return FolderFiles([path for path in named if path not in set(earlier)], dicom, left_out)


def stems_of(images: Iterable[Path]) -> set[str]:
    """Returns the names of image files without their suffixes."""
    return {file_stem(path) for path in images}


def is_segmentation(path: Path, stems: set[str]) -> bool:
    """Returns whether a name is that of a segmentation: of an image in the folder, a DICOM series, or by Slicer."""
    if path.name.lower().endswith(SEGMENTATION_SUFFIX):
        return True
    stem = file_stem(path)
    source = stem.removesuffix(f"_{SEGMENTATION_POSTFIX}")
    return source != stem and (source in stems or HASHED.search(source) is not None)


def _recorded_outputs(folder: Path) -> set[str]:
    """Returns the names of the outputs that the records of earlier runs into this folder list."""
    outputs = [_outputs(path) for path in sorted((folder / RECORDS).glob("*.json"))]
    return {name for names in outputs for name in names if isinstance(name, str)}


def _outputs(record: Path) -> list[Any]:
    try:
        content = read_json(record)
    except ValueError:  # another program's, or damaged, which `SegmentationRun` reports
        return []
    outputs = content.get("outputs") if isinstance(content, dict) else None
    return outputs if isinstance(outputs, list) else []

"""The images in a folder, by name: files, DICOM series, and the folders of patients with several images."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Container, Iterator
from pathlib import Path

from tskd_monai.data.dicom.header import is_dicom_file
from tskd_monai.data.output_names import IMAGE_ENDINGS, file_stem

logger = logging.getLogger(__name__)

PRIVATE_PREFIXES = (".", "__", "@")
"""Of files and folders that systems and archives add: `.DS_Store`, `__MACOSX`, `@eaDir`."""

COMPANIONS = ("thumbs.db", "desktop.ini", "dicomdir", ".raw", ".raw.gz", ".zraw")
"""Endings of files that belong to a system, or hold the voxels of a header file beside them."""


def patient_of(name: str) -> str:
    """Returns the patient of an image: the folder in its name, or else the name."""
    return name.partition("/")[0]


def image_of_label(label: str, images: Container[str]) -> str | None:
    """Returns the name of the image that a label belongs to: the longest that the label's name begins with.

    The name of the label continues with `_`, `-`, or `/`, a file in a folder with the name of the image.
    """
    ends = [len(label), *(mark.start() for mark in reversed([*re.finditer("[_/-]", label)]))]
    return next((label[:end] for end in ends if label[:end] in images), None)


def images_by_name(folder: Path, labels: Collection[str] = (), besides: Collection[Path] = ()) -> dict[str, Path]:
    """Returns the images of a folder by name.

    A file is named without its extension, and a DICOM series, which is a folder, after it. Image files in a subfolder,
    or series in subfolders that have a label each, are of one patient and are named `patient/image`. Other files are
    ignored with a warning.

    Args:
        folder: folder of images or of labels.
        labels: names of the labels of its images.
        besides: files that are left out, and folders that have no others; with them, there may be no image.

    Raises:
        ValueError: if two images have the same name, DICOM files lie directly in the folder, or there is no image.
    """
    found: dict[str, Path] = {}
    ignored: list[Path] = []
    for name, path in _named_images(folder, labels, ignored):
        if besides and all(
            file in besides for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()
        ):
            continue
        if name in found:
            raise ValueError(f"Expected one image called {name} in {folder}, found {found[name].name} and {path.name}.")
        found[name] = path.absolute()
    ignored = [path for path in ignored if path not in besides]
    _refuse_loose_dicom(folder, ignored)
    if not found and not besides:
        raise ValueError(
            f"Expected images in {folder}, found {_counted(ignored) or 'none'}; files end in "
            f"{', '.join(IMAGE_ENDINGS)}, and a DICOM series is a folder."
        )
    if ignored:
        logger.warning("%s/: ignored %s.", folder.name, _counted(ignored))
    return found


def _named_images(folder: Path, labels: Collection[str], ignored: list[Path]) -> Iterator[tuple[str, Path]]:
    """Yields name and path of each image, and adds other files to `ignored`."""
    for path in _visible(folder):
        if path.is_dir():
            inner = _images_of_patient(path, labels)
            yield from ((f"{path.name}/{file_stem(image)}", image) for image in inner)
            if not inner:
                yield path.name, path
        elif _is_image(path):
            yield file_stem(path), path
        else:
            ignored.append(path)


def _images_of_patient(folder: Path, labels: Collection[str]) -> list[Path]:
    """Returns the images in the folder of a patient; none for the folder of a DICOM series."""
    inner = _visible(folder)
    images = [path for path in inner if _is_image(path) and not path.is_dir()]
    others = [path for path in inner if path not in images and not path.is_dir()]
    if images:
        return [] if any(map(is_dicom_file, others)) else images
    series = [path for path in inner if path.is_dir()]
    names = {f"{folder.name}/{path.name}" for path in series}
    return series if any(image_of_label(label, names) for label in labels) else []


def _visible(folder: Path) -> list[Path]:
    return [
        path
        for path in sorted(folder.iterdir())
        if not path.name.startswith(PRIVATE_PREFIXES) and not path.name.lower().endswith(COMPANIONS)
    ]


def _is_image(path: Path) -> bool:
    return path.name.lower().endswith(IMAGE_ENDINGS)


def _counted(paths: list[Path]) -> str:
    """Returns the number of files and the name of the first; empty for none."""
    if not paths:
        return ""
    return f"{len(paths)} other file{'s' if len(paths) > 1 else ''}, such as {paths[0].name}"


def _refuse_loose_dicom(folder: Path, files: list[Path]) -> None:
    """Raises ValueError for DICOM files that are not in a folder of their series."""
    loose = [path for path in files if path.is_file() and is_dicom_file(path)]
    if loose:
        raise ValueError(
            f"Expected the files of each DICOM series in a folder of its own, such as {folder / 'case1'}, found "
            f"{len(loose)} DICOM file{'s' if len(loose) > 1 else ''} directly in {folder}, such as {loose[0].name}. "
            "Move those of each series into a folder named after the case."
        )

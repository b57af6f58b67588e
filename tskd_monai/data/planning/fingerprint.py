"""Properties of images and labels for planning: each file is read once, and as strictly as in training."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from monai.transforms import EnsureChannelFirstd
from scipy import ndimage
from tqdm import tqdm

from tskd_monai.data.datalist import LABEL_KEYS, SECTIONS
from tskd_monai.data.drawn_structures import DRAWN, undrawn_classes, undrawn_code
from tskd_monai.data.grid import body_spacing, reoriented, require_orthogonal
from tskd_monai.data.image_file import is_image_file
from tskd_monai.data.labels import CheckLabelMatchesImaged, EncodeLabelsd
from tskd_monai.data.output_names import image_title
from tskd_monai.data.volume_reader import load_image_transform, load_label_transform

logger = logging.getLogger(__name__)

AXES = "LPS"
"""Directions of a volume's axes, along each of which slices are counted."""

SCORED = "test"
"""Section whose labels are used to measure distances."""

RANGE_PERCENTILES = (0.5, 99.5)
FOREGROUND_SAMPLE = 100_000
"""Largest number of foreground voxels of a case whose values are kept; sufficient for a window of HU."""

CT = "CT"


@dataclass(frozen=True)
class Fingerprint:
    """Properties of one image and its label.

    Attributes:
        section: section of the datalist.
        case: case of the datalist.
        name: name of the image's file.
        shape: voxels to the left, posterior and superior (rows, columns, 1 for 2D images).
        spacing: mm along the same axes (1 for 2D images).
        channels: 1 (grey) or 3 (colour).
        modality: modality of a DICOM series; "" if unknown.
        value_range: 0.5th and 99.5th percentile of the whole image.
        voxels_sha256: sha256 of shape and values, independent of the file format.
        class_counts: voxels of each network class on each slice along each axis, (slices, classes); empty without
            label.
        largest_fractions: fraction of each foreground class in its largest connected component, where requested.
        foreground: coordinates (3, N) and values (N,) of evenly spaced foreground voxels; only for CT.
        undrawn: foreground classes that were not drawn in this case.
        ignored: number of voxels to ignore, which `class_counts` leave out.
    """

    section: str
    case: str
    name: str
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    channels: int
    modality: str
    value_range: tuple[float, float]
    voxels_sha256: str
    class_counts: tuple[np.ndarray, ...] = ()
    largest_fractions: Mapping[int, float] | None = None
    foreground: tuple[np.ndarray, np.ndarray] | None = None
    undrawn: tuple[int, ...] = ()
    ignored: int = 0

    def counts(self, slice_axis: int | None = None, slices: Sequence[int] | None = None) -> np.ndarray:
        """Returns the voxels of each class, (K,), on the given slices along an axis (None: 2D image), or on all."""
        return self.class_counts[_slices_along(slice_axis)][slice(None) if slices is None else list(slices)].sum(axis=0)

    def foreground_range(self, slice_axis: int | None, slices: Sequence[int] | None) -> tuple[float, float] | None:
        """Returns the 0.5th and 99.5th percentile inside the foreground; None without foreground."""
        if self.foreground is None:
            return None
        coordinates, values = self.foreground
        if slices is not None:
            values = values[np.isin(coordinates[_slices_along(slice_axis)], list(slices))]
        return _percentiles(values) if values.size else None


@dataclass(frozen=True)
class ReadCase:
    """An image with its label, in memory, and their fingerprint.

    Attributes:
        fingerprint: fingerprint of both.
        label_sha256: sha256 of the label's shape and classes; "" without any foreground.
        image: voxels as stored, (X, Y, Z) or, in colour, (X, Y, Z, 3).
        classes: network classes, (X, Y, Z); None without a label.
        affine: affine to RAS mm, (4, 4); None for 2D images.
    """

    fingerprint: Fingerprint
    label_sha256: str
    image: np.ndarray
    classes: np.ndarray | None
    affine: np.ndarray | None


class RefusedCase(ValueError):
    """Error of a single case.

    Args:
        found: fingerprint of the case.
        message: error message.
    """

    def __init__(self, found: Fingerprint, message: str) -> None:
        super().__init__(message)
        self.found = found


@dataclass(frozen=True)
class Reading:
    """Settings for reading the files of a datalist.

    Attributes:
        label_values: declared label values, background first.
        channels: declared number of channels; None: counted from the images.
        ct: whether foreground values are kept for images that do not state their modality.
        components_of: section whose labels determine the classes that are one connected component.
        names: declared names of the labels, background first.
        ignore: declared value of voxels to ignore; None: there are none.
    """

    label_values: tuple[int, ...]
    channels: int | None = None
    ct: bool = False
    components_of: str = "training"
    names: tuple[str, ...] = ()
    ignore: int | None = None


def read_fingerprints(datalist: Mapping[str, Any], reading: Reading) -> dict[str, Fingerprint]:
    """Returns the fingerprint of each image of a datalist by path; planning does not use those of `test`.

    Raises:
        ValueError: when training, validation or scoring would refuse a file, images are of different kinds, or an image
            is listed twice; names the section, the case and the file.
    """
    entries = [(section, entry) for section in SECTIONS for entry in datalist.get(section, [])]
    first = entries[0][1]["image"] if entries else ""
    for _, entry in entries:
        check_kind(entry["image"], first)
    prints: dict[str, Fingerprint] = {}
    seen: dict[str, Fingerprint] = {}
    labels: dict[str, Fingerprint] = {}
    for section, entry in tqdm(entries, desc="Fingerprint", unit="case", leave=False, disable=None):
        try:
            case = read_case(entry, section, reading)
        except (ValueError, FileNotFoundError) as error:
            kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
            raise kind(f"`{section}` case {entry['case']}: {error}") from error
        found = case.fingerprint
        check_channels(found, next(iter(prints.values()), found), reading.channels)
        check_new(found, seen)
        _warn_of_same_label(found, labels.setdefault(case.label_sha256, found) if case.label_sha256 else found)
        prints[entry["image"]] = found
    return prints


@lru_cache(maxsize=1)
def _steps(
    label_values: tuple[int, ...], names: tuple[str, ...], ignore: int | None
) -> tuple[Callable[[Any], Any], ...]:
    """Returns training's transforms before reorientation; building MONAI's loader takes long, so this is done once."""
    return (
        load_image_transform(["image"]),
        load_label_transform(LABEL_KEYS, allow_missing_keys=True),
        EnsureChannelFirstd(["image", *LABEL_KEYS], allow_missing_keys=True),
        *(CheckLabelMatchesImaged("image", key) for key in LABEL_KEYS),
        EncodeLabelsd(LABEL_KEYS, label_values, allow_missing_keys=True, names=names, ignore=ignore),
    )


def read_case(entry: Mapping[str, Any], section: str, reading: Reading) -> ReadCase:
    """Reads the image and the labels of an entry, and returns them with their fingerprint.

    Args:
        entry: entry of a datalist from `load_datalist`.
        section: section of the entry.
        reading: settings for reading its files.

    Raises:
        FileNotFoundError: when a folder has no DICOM image.
        ValueError: when training or scoring would refuse a file; names it.
    """
    item: Any = {key: entry[key] for key in ("image", *LABEL_KEYS, DRAWN) if key in entry}
    for step in _steps(reading.label_values, reading.names, reading.ignore):
        item = step(item)
    image, meta = np.asarray(item["image"]), item["image"].meta
    affine = None if is_image_file(entry["image"]) else np.asarray(meta["affine"])
    volume = _turned(np.moveaxis(image, 0, -1), affine)
    modality = str(meta.get("modality") or "")
    found: dict[str, Any] = {}
    label_sha256, stored = "", None
    if "label" in item:
        if section == SCORED and affine is not None:
            require_orthogonal(affine, image_title(item["label"].meta))
        encoded = np.asarray(item["label"])[0]
        stored = encoded if encoded.dtype == np.uint8 else encoded.clip(0).astype(np.uint8)
        classes = _turned(stored, affine)
        foreground = np.nonzero(classes)
        values = classes[foreground]
        found["class_counts"] = _class_counts(classes.shape, foreground, values, len(reading.label_values))
        found["undrawn"] = undrawn_classes(entry.get(DRAWN), reading.names, "")
        ignored = _turned(encoded, affine) == undrawn_code(range(1, len(reading.label_values)))
        if reading.ignore is not None and (number := int(ignored.sum())):
            found["ignored"] = number
            for axis, table in enumerate(found["class_counts"]):
                table[:, 0] -= ignored.sum(axis=tuple(other for other in range(3) if other != axis))
        if section == reading.components_of and "slices" not in entry:
            found["largest_fractions"] = _largest_fractions(classes, foreground, values)
        if reading.ct or modality == CT:
            found["foreground"] = _sample(volume[..., 0], foreground)
        label_sha256 = _sha256(classes) if values.size else ""
    known = np.isfinite(image)
    finite = image.ravel(order="K") if known.all() else image[known]
    fingerprint = Fingerprint(
        section=section,
        case=str(entry["case"]),
        name=image_title(meta),
        shape=volume.shape[:3],
        spacing=_spacing(affine),
        channels=image.shape[0],
        modality=modality,
        value_range=_percentiles(finite) if finite.size else (0.0, 0.0),
        voxels_sha256=_sha256(volume),
        **found,
    )
    shown = image[0] if image.shape[0] == 1 else np.moveaxis(image, 0, -1)
    return ReadCase(fingerprint, label_sha256, shown, stored, affine)


def _slices_along(slice_axis: int | None) -> int:
    """Returns the array axis of the slices; that of the only slice of a 2D image, whose slice axis is None."""
    return 2 if slice_axis is None else slice_axis


def _turned(array: np.ndarray, affine: np.ndarray | None) -> np.ndarray:
    """Returns a view of a volume with axes to the left, posterior and superior; a 2D image (None) is unchanged."""
    if affine is None:
        return array
    return reoriented(array, affine, AXES)


def _spacing(affine: np.ndarray | None) -> tuple[float, ...]:
    if affine is None:
        return (1.0, 1.0, 1.0)
    return tuple(float(size) for size in body_spacing(affine))


def _class_counts(
    shape: tuple[int, ...], foreground: tuple[np.ndarray, ...], values: np.ndarray, classes: int
) -> tuple[np.ndarray, ...]:
    """Returns the voxels of each class on each slice along each axis, (slices, classes)."""
    counts = []
    for axis, depth in enumerate(shape):
        flat = np.bincount(foreground[axis] * classes + values, minlength=depth * classes)
        table = flat.reshape(depth, classes)
        table[:, 0] = int(np.prod(shape)) // depth - table.sum(axis=1)
        counts.append(table)
    return tuple(counts)


def _largest_fractions(classes: np.ndarray, foreground: tuple[np.ndarray, ...], values: np.ndarray) -> dict[int, float]:
    """Returns the fraction of each class in its largest component, with connectivity across corners."""
    fractions = {}
    for value in np.unique(values).tolist():
        box = tuple(
            slice(int(axis.min()), int(axis.max()) + 1) for axis in (part[values == value] for part in foreground)
        )
        mask = classes[box] == value
        components, number = ndimage.label(mask, structure=np.ones((3,) * mask.ndim))
        fractions[value] = 1.0 if number < 2 else float(np.bincount(components.ravel())[1:].max() / mask.sum())
    return fractions


def _sample(image: np.ndarray, foreground: tuple[np.ndarray, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Returns coordinates and values of evenly spaced foreground voxels."""
    step = -(-foreground[0].size // FOREGROUND_SAMPLE) or 1
    chosen = tuple(axis[::step] for axis in foreground)
    return np.stack(chosen).astype(np.uint16), image[chosen].astype(np.float32)


def _percentiles(values: np.ndarray) -> tuple[float, float]:
    lower, upper = np.percentile(values, RANGE_PERCENTILES)
    return float(lower), float(upper)


def _sha256(array: np.ndarray) -> str:
    digest = hashlib.sha256(repr(array.shape).encode())
    digest.update(np.ascontiguousarray(array.T).data)  # the first axis of a volume is the fastest in its file
    return digest.hexdigest()


def check_kind(path: str, first: str) -> None:
    """Raises ValueError unless two paths are both of 2D image files or both of volumes."""
    if is_image_file(path) != is_image_file(first):
        flat, volume = (path, first) if is_image_file(path) else (first, path)
        raise ValueError(
            f"Expected images of one kind, found the 2D image {Path(flat).name} and the volume {Path(volume).name}; "
            "make a datalist for each."
        )


def check_channels(found: Fingerprint, first: Fingerprint, declared: int | None) -> None:
    """Raises ValueError when an image has other channels than declared, or than the first image."""
    if declared is not None and found.channels != declared:
        raise ValueError(
            f"Expected {declared} channel(s) as declared, found {found.channels} in {found.name} (grey has 1, colour "
            "3); correct the datalist's `channels` or leave it out: it is counted from the images."
        )
    if found.channels != first.channels:
        raise ValueError(
            f"Expected images of one kind, found {first.channels} channel(s) in {first.name} and {found.channels} in "
            f"{found.name} (grey has 1, colour 3); convert one kind into the other, or make a datalist for each."
        )


def is_blank(found: Fingerprint) -> bool:
    """Returns whether an image has a single value; blank images are alike."""
    return found.value_range[0] == found.value_range[1]


def check_new(found: Fingerprint, seen: dict[str, Fingerprint]) -> None:
    """Raises ValueError for an image that is listed already, under another name or in another format.

    Args:
        found: fingerprint of the image.
        seen: fingerprints of the images before it by `voxels_sha256`; the image is added.
    """
    if is_blank(found):
        return
    first = seen.setdefault(found.voxels_sha256, found)
    if first is not found:
        raise ValueError(
            f"Expected each image once, found the content of {first.name} (`{first.section}` case {first.case}) again "
            f"in {found.name} (`{found.section}` case {found.case}); leave one of them out."
        )


def _warn_of_same_label(found: Fingerprint, first: Fingerprint) -> None:
    if first.case != found.case:
        logger.warning(
            "The labels of %s and %s, of different cases, are the same; are they paired with the right images?",
            first.name,
            found.name,
        )

"""Plans a task from a fingerprint of the training data, the way nnU-Net does: every value stays open to editing."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.transforms import LoadImaged
from tqdm import tqdm

from tskd_monai.data.image_file import IMAGE_SUFFIXES
from tskd_monai.data.task import Intensity, Label, Task
from tskd_monai.data.volume_reader import load_image_transform

logger = logging.getLogger(__name__)

# How a radiologist looks at slices along each anatomical axis (sagittal, coronal, axial); slices come last.
VIEWS = {0: "IPL", 1: "ILP", 2: "PLS"}
LARGEST_IMAGE_SIZE = 256
# A class counts as one piece when the largest component holds at least this share of it in every training case.
ONE_PIECE_SHARE = 0.99
DEFAULT_FOREGROUND_OVERSAMPLING = 0.67
SHOWN_VALUES = 8


@dataclass(frozen=True)
class Fingerprint:
    """What planning knows of one training case.

    Attributes:
        case: of the datalist.
        shape: voxels along right-left, anterior-posterior, inferior-superior (rows, columns, 1 for 2D images).
        spacing: mm along the same axes.
        counts: number of labelled voxels of each label value.
        pieces: share of each label value's voxels in its largest component; empty where only slices are labelled.
        foreground_range: the 0.5th and 99.5th percentile of the image inside the foreground.
    """

    case: str
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    counts: dict[int, int]
    pieces: dict[int, float]
    foreground_range: tuple[float, float] | None


def is_image_file(path: str | Path) -> bool:
    """Whether the path is a 2D image file by its suffix."""
    return Path(path).suffix.lower() in IMAGE_SUFFIXES


@lru_cache(maxsize=1)
def _loader() -> LoadImaged:
    """Building MONAI's loader asks every reader it knows whether its packages are there: once is enough."""
    return load_image_transform(["image", "label"], allow_missing_keys=True)


def plan_task(
    datalist: Mapping[str, Any], image_size: int | None = None, intensity: str | None = None, name: str | None = None
) -> Task:
    """Returns the task that fits a datalist's training section.

    Slices lie along the axis of the largest spacing. The pixel spacing is the largest median extent in the plane
    over the image size. Intensities are scaled by percentiles of each volume, but CT (datalist `modality`) by a window
    over the foreground's values and colour images from 0 to 255.

    Args:
        datalist: from `load_datalist`, with `labels` `{"0": "background", …}`; an entry with `slices` is labelled on
            these slices alone.
        image_size: rows and columns the networks see, a multiple of 16; None: the median matrix, 256 at most.
        intensity: `percentile`, `hu_window` or `rgb`; None: by modality and channels.
        name: of the task; None: the datalist's.

    Raises:
        ValueError: when there is no training case, labels are not declared, a label file holds a value that is not
            or is not its image's, or no label file holds a declared value.
    """
    labels = _declared_labels(datalist)
    if not datalist["training"]:
        raise ValueError("Expected entries in the datalist's `training` to plan a task from, found none. Add cases.")
    flat = is_image_file(datalist["training"][0]["image"])
    channels = int(datalist.get("channels", 1))
    slice_axis = None if flat else _slice_axis(datalist["training"])
    prints = [_fingerprint(entry, slice_axis) for entry in tqdm(datalist["training"], desc="Fingerprint", unit="case")]
    _check_label_values(prints, labels)
    plane = [0, 1] if slice_axis is None else [axis for axis in range(3) if axis != slice_axis]
    size = image_size or _planned_size(prints, plane)
    extents = [np.median([p.shape[axis] * p.spacing[axis] for p in prints]) for axis in plane]
    pixdim = round(float(max(extents)) / size, 4)
    task = Task(
        name=name or str(datalist.get("name", "study")),
        labels=labels,
        channels=channels,
        image_size=(size, size),
        pixdim=(pixdim, pixdim),
        axcodes=None if slice_axis is None else VIEWS[slice_axis],
        intensity=_plan_intensity(intensity, _modality(datalist), channels, prints),
        class_frequencies=_class_frequencies(prints, labels),
        foreground_oversampling=DEFAULT_FOREGROUND_OVERSAMPLING,
        keep_largest_component=tuple(
            label.value for label in labels[1:] if all(p.pieces.get(label.value, 0) >= ONE_PIECE_SHARE for p in prints)
        ),
    )
    _check_labels_found(prints, labels, partly=any("slices" in entry for entry in datalist["training"]))
    return task


def slice_counts(entries: Sequence[Mapping[str, Any]], task: Task) -> dict[str, int]:
    """Returns the number of slices of each entry's image along the task's slice axis, by case.

    Raises:
        ValueError: when a case has several images: the count of one would be taken for all.
    """
    cases = [str(entry["case"]) for entry in entries]
    repeated = sorted({case for case in cases if cases.count(case) > 1})
    if repeated:
        raise ValueError(
            f"Expected one image a case to draw labelled slices from, found {cases.count(repeated[0])} of case "
            f"{repeated[0]}. Leave labelled entries out of `training` by hand instead."
        )
    return {str(entry["case"]): _image_geometry(entry["image"], _axis_of(task))[0] for entry in entries}


def _axis_of(task: Task) -> int | None:
    return None if task.axcodes is None else {view: axis for axis, view in VIEWS.items()}.get(task.axcodes, 2)


def _image_geometry(path: str, slice_axis: int | None) -> tuple[int, tuple[int, ...], tuple[float, ...]]:
    """Number of slices, shape and spacing (mm) along the axes right-left, anterior-posterior, inferior-superior."""
    image = _loader()({"image": path})["image"]
    shape, spacing = _canonical(image.shape, np.asarray(image.meta["affine"]), flat=slice_axis is None)
    return (1 if slice_axis is None else shape[slice_axis]), shape, spacing


def _canonical(shape: Sequence[int], affine: np.ndarray, flat: bool) -> tuple[tuple[int, ...], tuple[float, ...]]:
    sizes = nib.affines.voxel_sizes(affine)
    if flat:
        return tuple(shape[:3]), tuple(float(size) for size in sizes)
    axes = nib.io_orientation(affine)[:, 0].astype(int)
    order = [int(np.flatnonzero(axes == axis)[0]) for axis in range(3)]
    return tuple(shape[axis] for axis in order), tuple(float(sizes[axis]) for axis in order)


def _slice_axis(entries: Sequence[Mapping[str, Any]]) -> int:
    """Axis of the largest median spacing; axial where they are alike within 1 %."""
    spacings = np.array([_image_geometry(entry["image"], 2)[2] for entry in entries])
    medians = np.median(spacings, axis=0)
    return int(np.argmax(medians)) if medians.max() > 1.01 * medians[2] else 2


def _fingerprint(entry: Mapping[str, Any], slice_axis: int | None) -> Fingerprint:
    loaded = _loader()({"image": entry["image"], "label": entry["label"]})
    affine = np.asarray(loaded["label"].meta["affine"])
    label = _whole_numbers(np.asarray(loaded["label"]), entry)
    image = np.asarray(loaded["image"])
    if image.shape[:3] != label.shape:
        raise ValueError(
            f"Expected the label {Path(entry['label']).name} of case {entry['case']} in the shape of its image, "
            f"{image.shape[:3]}, found {label.shape}. Pair the files that belong together."
        )
    shape, spacing = _canonical(label.shape, affine, flat=slice_axis is None)
    partly = "slices" in entry and slice_axis is not None
    if partly:
        label = _labelled_slices(label, affine, slice_axis, entry["slices"])
    values, numbers = np.unique(label[label >= 0] if partly else label, return_counts=True)
    counts = dict(zip(values.tolist(), numbers.tolist(), strict=True))
    inside = image[label > 0]
    inside = inside[np.isfinite(inside)]
    window = (float(np.percentile(inside, 0.5)), float(np.percentile(inside, 99.5))) if inside.size else None
    pieces = {} if partly else {value: _largest_share(label == value) for value in counts if value > 0}
    return Fingerprint(str(entry["case"]), shape, spacing, counts, pieces, window)


def _whole_numbers(label: np.ndarray, entry: Mapping[str, Any]) -> np.ndarray:
    """The label map as integers; interpolated maps are refused, not cut off."""
    whole = np.isfinite(label) & (label == np.round(label))
    if not whole.all():
        found = np.unique(label[~whole])[:SHOWN_VALUES].tolist()
        raise ValueError(
            f"Expected whole numbers in the label {Path(entry['label']).name} of case {entry['case']}, found {found}. "
            "Resample labels with nearest-neighbour interpolation."
        )
    return label.astype(np.int64)


def _labelled_slices(
    label: np.ndarray, affine: np.ndarray, slice_axis: int | None, slices: Sequence[int]
) -> np.ndarray:
    """The label map with -1 on every slice that is not labelled; slices are counted in the task's orientation."""
    axis = int(np.flatnonzero(nib.io_orientation(affine)[:, 0] == slice_axis)[0])
    towards_end = nib.aff2axcodes(affine)[axis] == VIEWS[slice_axis or 0][2]
    indices = [index if towards_end else label.shape[axis] - 1 - index for index in slices]
    masked = np.full_like(label, -1)
    chosen = [slice(None)] * 3
    chosen[axis] = indices  # type: ignore[call-overload]
    masked[tuple(chosen)] = label[tuple(chosen)]
    return masked


def _largest_share(mask: np.ndarray) -> float:
    from scipy import ndimage

    components, number = ndimage.label(mask, structure=np.ones((3,) * mask.ndim))
    return 1.0 if number < 2 else float(np.bincount(components.ravel())[1:].max() / mask.sum())


def _declared_labels(datalist: Mapping[str, Any]) -> tuple[Label, ...]:
    declared = datalist.get("labels")
    if not isinstance(declared, Mapping) or "0" not in declared or len(declared) < 2:
        raise ValueError(
            f'Expected `labels` such as {{"0": "background", "1": "liver"}} in the datalist, found {declared}.'
        )
    return tuple(Label(int(value), str(declared[value])) for value in sorted(declared, key=int))


def _check_label_values(prints: Sequence[Fingerprint], labels: Sequence[Label]) -> None:
    known = {label.value for label in labels}
    for case in prints:
        extra = sorted(set(case.counts) - known)
        if extra:
            raise ValueError(
                f"Expected label values {sorted(known)}, found {extra} in the label of case {case.case}. Declare them "
                "in the datalist's `labels` or mend the file."
            )


def _check_labels_found(prints: Sequence[Fingerprint], labels: Sequence[Label], partly: bool) -> None:
    """Raises ValueError for a declared label that no case has; a few labelled slices may lack one, with a notice."""
    absent = [
        f"{label.value} ({label.name})" for label in labels[1:] if not any(label.value in p.counts for p in prints)
    ]
    if absent and partly:
        logger.warning("The labelled slices have no voxel of %s; it cannot be learned.", ", ".join(absent))
    elif absent:
        raise ValueError(
            f"Expected the {len(labels)} declared labels in the training cases, found no voxel of {', '.join(absent)}. "
            "Take it out of the datalist's `labels`, or add a case that has it."
        )


def _planned_size(prints: Sequence[Fingerprint], plane: Sequence[int]) -> int:
    matrix = max(np.median([case.shape[axis] for case in prints]) for axis in plane)
    return int(np.clip(np.ceil(matrix / 16) * 16, 32, LARGEST_IMAGE_SIZE))


def _modality(datalist: Mapping[str, Any]) -> str:
    """The modality, also where it is written as the Medical Segmentation Decathlon does: `{"0": "CT"}`."""
    modality = datalist.get("modality", "")
    return str(modality.get("0", "") if isinstance(modality, Mapping) else modality)


def _plan_intensity(mode: str | None, modality: str, channels: int, prints: Sequence[Fingerprint]) -> Intensity:
    mode = mode or ("rgb" if channels == 3 else "hu_window" if modality.upper() == "CT" else "percentile")
    if mode == "rgb":
        return Intensity(mode, 0.0, 255.0)
    if mode == "percentile":
        return Intensity(mode, 0.5, 99.5)
    windows = [case.foreground_range for case in prints if case.foreground_range is not None]
    if not windows:
        raise ValueError("Expected labelled foreground to plan a HU window from, found none.")
    lower, upper = np.median(windows, axis=0)
    return Intensity(mode, round(float(lower)), round(float(max(upper, lower + 1))))


def _class_frequencies(prints: Sequence[Fingerprint], labels: Sequence[Label]) -> tuple[float, ...]:
    totals = [sum(case.counts.get(label.value, 0) for case in prints) for label in labels]
    return tuple(round(total / max(sum(totals), 1), 6) for total in totals)

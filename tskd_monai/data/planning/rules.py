"""Planning of a task from a fingerprint of the training data, as nnU-Net does; every value can be edited."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tskd_monai.data.datalist import case_names
from tskd_monai.data.drawn_structures import IGNORE
from tskd_monai.data.fitness import ImageExtent, image_extent, ranges_over
from tskd_monai.data.image_file import is_image_file
from tskd_monai.data.planning.fingerprint import CT, Fingerprint, Reading, RefusedCase, read_fingerprints
from tskd_monai.data.task import AXIS_OF_LETTER, Intensity, Label, Task
from tskd_monai.files.json_files import shown

logger = logging.getLogger(__name__)

# Viewing direction of radiologists for each anatomical axis (sagittal, coronal, axial); slices come last.
VIEWS = {0: "IPL", 1: "ILP", 2: "PLS"}
LARGEST_IMAGE_SIZE = 256
# A class is one connected component when the largest holds at least this fraction of it in every examined case.
ONE_COMPONENT_FRACTION = 0.99
DEFAULT_FOREGROUND_OVERSAMPLING = 0.67

LEARNED_FROM = ("training", "unlabeled")

Prints = Mapping[str, Fingerprint]


def plan_task(
    datalist: Mapping[str, Any],
    image_size: int | None = None,
    intensity: str | None = None,
    name: str | None = None,
    prints: Prints | None = None,
) -> Task:
    """Returns a task planned from a datalist's training section.

    Slices lie along the axis of the largest spacing. The pixel spacing is the largest median in-plane extent divided by
    the image size. Intensities are scaled by percentiles of each volume; for CT (by the datalist's `modality` or DICOM)
    by a window over the foreground values, and for colour images from 0 to 255. Only the largest component is kept of a
    class that is one connected component in every training case or, if only slices of these are labelled, in every
    validation case. `training_images` are ranges over the training and unlabelled images.

    Args:
        datalist: datalist from `load_datalist`, with `labels` `{"0": "background", …}`; of an entry with `slices`, only
            these slices are labelled.
        image_size: rows and columns of the network's input, a multiple of 16; None: the median matrix, at most 256.
        intensity: `percentile`, `hu_window` or `rgb`; None: by modality and channels.
        name: name of the task; None: the datalist's.
        prints: fingerprints of the images, from `fingerprints`; None: they are read.

    Raises:
        ValueError: when there is no training case, labels are not declared, or training or scoring would refuse a file;
            names the case and the file.
    """
    if prints is None:
        prints = fingerprints(datalist, intensity)
    task = draft_task(datalist, image_size, intensity, name, prints)
    check_labels_found(datalist, prints, task)
    return task


def draft_task(
    datalist: Mapping[str, Any], image_size: int | None, intensity: str | None, name: str | None, prints: Prints
) -> Task:
    """Returns the task as `plan_task` does, also where no training case shows a declared label.

    Raises:
        RefusedCase: when a single case is at fault.
        ValueError: when labels are not declared, or there is no foreground to plan a HU window from.
    """
    labels = declared_labels(datalist)
    training = [(prints[entry["image"]], entry.get("slices")) for entry in datalist["training"]]
    slice_axis = _slice_axis(datalist, prints)
    for found, slices in training:
        _check_slices(found, slices, slice_axis)
    counts = [found.counts(slice_axis, slices) for found, slices in training]
    plane = [0, 1] if slice_axis is None else [axis for axis in range(3) if axis != slice_axis]
    cases = [found for found, _ in training]
    size = image_size or _planned_size(cases, plane)
    extents = [np.median([case.shape[axis] * case.spacing[axis] for case in cases]) for axis in plane]
    pixdim = round(float(max(extents)) / size, 4)
    mode = _intensity_mode(intensity, datalist, prints)
    windows = [found.foreground_range(slice_axis, slices) for found, slices in training]
    return Task(
        name=name or str(datalist.get("name", "study")),
        labels=labels,
        channels=cases[0].channels,
        image_size=(size, size),
        pixdim=(pixdim, pixdim),
        axcodes=None if slice_axis is None else VIEWS[slice_axis],
        intensity=_plan_intensity(mode, windows),
        class_frequencies=_class_frequencies(counts, [found.undrawn for found in cases]),
        foreground_oversampling=DEFAULT_FOREGROUND_OVERSAMPLING,
        keep_largest_component=_one_component(datalist, prints, labels),
        training_images=ranges_over(list(image_extents(datalist, prints, slice_axis).values())),
        ignore=ignored_value(datalist),
    )


def fingerprints(
    datalist: Mapping[str, Any], intensity: str | None = None, partly: bool | None = None
) -> dict[str, Fingerprint]:
    """Returns the fingerprints of a datalist's images by path; each file is read once.

    Args:
        datalist: datalist from `load_datalist`.
        intensity: see `plan_task`.
        partly: whether only slices of the training cases are labelled; None: as the datalist states.

    Raises:
        ValueError: see `plan_task`.
    """
    return read_fingerprints(datalist, reading_of(datalist, intensity, partly))


def reading_of(datalist: Mapping[str, Any], intensity: str | None = None, partly: bool | None = None) -> Reading:
    """Returns the settings for reading a datalist's files, and warns of empty sections; see `fingerprints`."""
    labels = declared_labels(datalist)
    if not datalist["training"]:
        raise ValueError("Expected entries in the datalist's `training` to plan a task from, found none. Add cases.")
    channels = datalist.get("channels")
    if channels is not None and (isinstance(channels, bool) or channels not in (1, 3)):
        raise ValueError(
            f"Expected 1 (grey) or 3 (colour) as the datalist's `channels`, found {shown(channels)}; leave it out, "
            "it is counted from the images."
        )
    for section, loss in (("validation", "training cannot choose its best weights"), ("test", "nothing is scored")):
        if not datalist.get(section):
            logger.warning("The datalist has no `%s` cases; without them %s.", section, loss)
    partly = _partly_labelled(datalist) if partly is None else partly
    ct = intensity == "hu_window" or (intensity is None and _modality(datalist).upper() == CT)
    return Reading(
        tuple(label.value for label in labels),
        channels,
        ct,
        "validation" if partly else "training",
        tuple(label.name for label in labels),
        ignored_value(datalist),
    )


def image_extents(datalist: Mapping[str, Any], prints: Prints, slice_axis: int | None) -> dict[str, ImageExtent]:
    """Returns the extent of each training image, labelled or not, by path."""
    paths = [entry["image"] for section in LEARNED_FROM for entry in datalist.get(section, [])]
    return {
        path: image_extent(prints[path].shape, prints[path].spacing, prints[path].value_range, slice_axis)
        for path in paths
    }


def slice_counts(entries: Sequence[Mapping[str, Any]], prints: Prints, task: Task) -> dict[str, int]:
    """Returns the number of slices of each entry's image along the task's slice axis, by the names of `case_names`.

    Raises:
        ValueError: when two images have the same name: files of a case in different folders.
    """
    axis = slice_axis_of(task)
    counts: dict[str, int] = {}
    for name, entry in zip(case_names(entries), entries, strict=True):
        if name in counts:
            raise ValueError(
                f"Expected a file name of its own for each image of case {entry['case']}, found "
                f"{Path(entry['image']).name} twice; rename one."
            )
        counts[name] = prints[entry["image"]].shape[2 if axis is None else axis]
    return counts


def slice_axis_of(task: Task) -> int | None:
    """Returns the axis that the slices of a task's volumes lie along; None for 2D images."""
    return None if task.axcodes is None else AXIS_OF_LETTER[task.axcodes[-1]]


def declared_labels(datalist: Mapping[str, Any]) -> tuple[Label, ...]:
    """Returns the labels that a datalist declares, in order of their values, without that of voxels to ignore.

    Raises:
        ValueError: when it declares none, or not as a mapping from value to name.
    """
    declared = datalist.get("labels")
    if isinstance(declared, Mapping):
        declared = {value: name for value, name in declared.items() if name != IGNORE}
    advice = 'write them as {"0": "background", "1": "liver"}'
    if isinstance(declared, Mapping) and declared and all(isinstance(value, int) for value in declared.values()):
        advice = f'turn them round, from value to name as in {{"0": "background"}}, found {shown(declared)}'
        raise ValueError(f"Expected `labels` from value to name in the datalist, found name to value; {advice}.")
    if not isinstance(declared, Mapping) or "0" not in declared or len(declared) < 2:
        raise ValueError(
            f'Expected `labels` such as {{"0": "background", "1": "liver"}} in the datalist, found {shown(declared)}.'
        )
    wrong = [key for key in declared if not key.isdecimal()]
    if wrong:
        raise ValueError(
            f"Expected whole numbers as keys of `labels` in the datalist, found {shown(wrong[0])}; {advice}."
        )
    return tuple(Label(int(value), str(declared[value])) for value in sorted(declared, key=int))


def ignored_value(datalist: Mapping[str, Any]) -> int | None:
    """Returns the value of the label named `ignore`; None if a datalist declares none.

    Raises:
        ValueError: when it is 0, the value of a class, or given twice.
    """
    declared = datalist["labels"]
    values = [value for value, name in declared.items() if name == IGNORE]
    if not values:
        return None
    taken = {int(value): name for value, name in declared.items() if name != IGNORE and value.isdecimal()}
    if len(values) > 1 or not values[0].isdecimal() or int(values[0]) in {0, *taken}:
        raise ValueError(
            f"Expected one value above 0 that no other label has for `{IGNORE}` in `labels` of the datalist, found "
            f"{', '.join(map(shown, values))}; give it a value of its own."
        )
    return int(values[0])


def _slice_axis(datalist: Mapping[str, Any], prints: Prints) -> int | None:
    """Returns the axis of the largest median spacing; axial if they agree within 1 %; None for 2D images.

    Unlabelled images are included, so that a case keeps its slices when a budget makes another one unlabelled.
    """
    paths = [entry["image"] for section in LEARNED_FROM for entry in datalist.get(section, [])]
    if is_image_file(paths[0]):
        return None
    medians = np.median([prints[path].spacing for path in paths], axis=0)
    return int(np.argmax(medians)) if medians.max() > 1.01 * medians[2] else 2


def _check_slices(found: Fingerprint, slices: Sequence[int] | None, slice_axis: int | None) -> None:
    depth = found.shape[2 if slice_axis is None else slice_axis]
    if any(not 0 <= index < depth for index in slices or ()):
        message = f"Expected slices of 0 to {depth - 1} of case {found.case}, found {shown(slices)}."
        raise RefusedCase(found, message)


def _partly_labelled(datalist: Mapping[str, Any]) -> bool:
    return any("slices" in entry for entry in datalist["training"])


def _one_component(datalist: Mapping[str, Any], prints: Prints, labels: Sequence[Label]) -> tuple[int, ...]:
    """Returns the labels that are one connected component in every case of a section with all slices labelled."""
    section = "validation" if _partly_labelled(datalist) else "training"
    found = [prints[entry["image"]] for entry in datalist.get(section, [])]
    if any(case.largest_fractions is None for case in found):
        return ()
    kept = []
    for index, label in enumerate(labels):
        fractions = [(case.largest_fractions or {}).get(index, 0) for case in found if index not in case.undrawn]
        if index and fractions and min(fractions) >= ONE_COMPONENT_FRACTION:
            kept.append(label.value)
    return tuple(kept)


def check_labels_found(datalist: Mapping[str, Any], prints: Prints, task: Task) -> None:
    """Raises ValueError for a declared label that no case has; only warns if only slices are labelled.

    Args:
        datalist: datalist that the task was planned from.
        prints: fingerprints of its images.
        task: planned task.
    """
    axis, labels = slice_axis_of(task), task.labels
    totals = np.sum([prints[e["image"]].counts(axis, e.get("slices")) for e in datalist["training"]], axis=0)
    absent = [
        f"{label.value} ({label.name})"
        for label, total in zip(labels, totals, strict=True)
        if label.value and not total
    ]
    if absent and _partly_labelled(datalist):
        logger.warning("The labelled slices have no voxel of %s; it cannot be learned.", ", ".join(absent))
    elif absent:
        raise ValueError(
            f"Expected the {len(labels)} declared labels in the training cases, found no voxel of {', '.join(absent)}. "
            "Take it out of the datalist's `labels` (or --labels), or add a case that has it."
        )


def _planned_size(prints: Sequence[Fingerprint], plane: Sequence[int]) -> int:
    matrix = max(np.median([case.shape[axis] for case in prints]) for axis in plane)
    return int(np.clip(np.ceil(matrix / 16) * 16, 32, LARGEST_IMAGE_SIZE))


def _modality(datalist: Mapping[str, Any]) -> str:
    """Returns the modality, also from the form of the Medical Segmentation Decathlon: `{"0": "CT"}`."""
    modality = datalist.get("modality", "")
    return str(modality.get("0", "") if isinstance(modality, Mapping) else modality)


def _intensity_mode(mode: str | None, datalist: Mapping[str, Any], prints: Prints) -> str:
    """Returns the intensity mode: as given, by the datalist's modality, or by that of DICOM series.

    Raises:
        ValueError: when the mode does not suit colour images or the modality of a DICOM series.
    """
    known = {found.modality for found in prints.values()} - {""}
    modality = _modality(datalist) or (known.pop() if len(known) == 1 else "")
    colour = any(found.channels == 3 for found in prints.values())
    if mode == "hu_window" and colour:
        raise ValueError(
            "Expected percentile or rgb intensities for colour images, found hu_window, which is for CT; leave "
            "--intensity out."
        )
    mode = mode or ("rgb" if colour else "hu_window" if modality.upper() == CT else "percentile")
    for found in prints.values():
        if found.modality and (found.modality == CT) != (mode == "hu_window"):
            raise RefusedCase(
                found,
                f"Expected images for `{mode}` intensities (hu_window is for CT, and no other), found {found.modality} "
                f"in {found.name} of case {found.case}; correct the datalist's `modality`.",
            )
    return mode


def _plan_intensity(mode: str, windows: Sequence[tuple[float, float] | None]) -> Intensity:
    if mode == "rgb":
        return Intensity(mode, 0.0, 255.0)
    if mode == "percentile":
        return Intensity(mode, 0.5, 99.5)
    known = [window for window in windows if window is not None]
    if not known:
        raise ValueError("Expected labelled foreground to plan a HU window from, found none.")
    lower, upper = np.median(known, axis=0)
    return Intensity(mode, round(float(lower)), round(float(max(upper, lower + 1))))


def _class_frequencies(counts: Sequence[np.ndarray], undrawn: Sequence[Sequence[int]]) -> tuple[float, ...]:
    """Returns the fraction of each class among the labelled voxels, (K,), of the cases in which it was drawn.

    Args:
        counts: voxels of each class in each case, (K,).
        undrawn: classes that were not drawn in each case.
    """
    totals = np.sum(counts, axis=0)
    if not any(undrawn):
        return tuple(round(float(total / max(totals.sum(), 1)), 6) for total in totals)
    voxels = [
        sum(int(count.sum()) for count, out in zip(counts, undrawn, strict=True) if index not in out)
        for index in range(len(totals))
    ]
    fractions = [round(float(total / max(of, 1)), 6) for total, of in zip(totals[1:], voxels[1:], strict=True)]
    return (round(max(0.0, 1 - sum(fractions)), 6), *fractions)

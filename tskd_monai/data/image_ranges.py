"""Comparison of an image with the training images by its header and the range of its values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from tskd_monai.data.task import Intensity, Task, TrainingImages

UNLIKE_TRAINING = "unlike_training"
"""Key in metadata, records and `summary.json`: how an image differs from the training images."""
FIELD_OF_VIEW_FACTOR = 2.0
"""Allowed beyond the training images' range: scanners and patients vary by less, a crop of an organ by more."""
PIXEL_FACTOR = 4.0
"""Allowed for the spacing in the plane, which is resampled and varies with the acquisition matrix."""
SLICE_FACTOR = 10.0
"""Allowed for the slice distance: slices are segmented one by one, and the same CT comes at 0.6 mm and at 5 mm."""
AIR_HU = -1024.0
"""Values below it are padding outside of the scanner's field of view."""
HIGHEST_HU = 3071.0
"""Largest value of 12 bits; metal lies beyond it."""
VALUE_TOLERANCE = 500.0
"""Half the difference between air and water: crops of the body vary by less, shifted or other values by more."""
SMALLEST_SPREAD = 0.05
"""Fraction of the window: an image with less contrast was scaled to [0, 1], or is empty."""


@dataclass(frozen=True)
class ImageExtent:
    """Field of view, spacing and range of values of one image.

    Attributes:
        field_of_view: longer side of its slices, mm (pixels without a spacing).
        pixels: row and column spacing, mm (1 without a spacing).
        slices: distance between slices, mm; None for one slice and for 2D images.
        values: 0.5th and 99.5th percentile of the whole image.
    """

    field_of_view: float
    pixels: tuple[float, float]
    slices: float | None
    values: tuple[float, float]


def image_extent(
    shape: Sequence[int], spacing: Sequence[float], values: tuple[float, float], slice_axis: int | None
) -> ImageExtent:
    """Returns field of view, spacing and range of values of an image.

    Args:
        shape: voxels along three axes.
        spacing: mm along the same axes; 1 for images without a spacing.
        values: 0.5th and 99.5th percentile of the whole image.
        slice_axis: which of the axes the slices lie along; None for 2D images, whose first two axes are the plane.
    """
    rows, columns = (axis for axis in range(3) if axis != (2 if slice_axis is None else slice_axis))
    field_of_view = max(float(shape[axis] * spacing[axis]) for axis in (rows, columns))
    slices = None if slice_axis is None or shape[slice_axis] < 2 else float(spacing[slice_axis])
    return ImageExtent(field_of_view, (float(spacing[rows]), float(spacing[columns])), slices, values)


def ranges_over(images: Sequence[ImageExtent]) -> TrainingImages:
    """Returns the ranges over images, of which there is at least one."""
    distances = [image.slices for image in images if image.slices is not None]
    return TrainingImages(
        field_of_view_mm=_range([image.field_of_view for image in images]),
        pixel_mm=_range([spacing for image in images for spacing in image.pixels]),
        slice_mm=_range(distances) if distances else None,
        values=_range([value for image in images for value in image.values]),
    )


def unlike_most(images: Mapping[str, ImageExtent], unit: str) -> dict[str, list[str]]:
    """Returns how the geometry of training images differs from the median, by name, only of those that are far from it.

    Args:
        images: by name.
        unit: `mm`, or `pixels` for images without a spacing.
    """
    distances = [image.slices for image in images.values() if image.slices is not None]
    middle = TrainingImages(
        field_of_view_mm=(median(image.field_of_view for image in images.values()),) * 2,
        pixel_mm=(median(spacing for image in images.values() for spacing in image.pixels),) * 2,
        slice_mm=(median(distances),) * 2 if distances else None,
        values=(0.0, 0.0),
    )
    found = {name: _unlike_geometry(image, middle, unit) for name, image in images.items()}
    return {name: findings for name, findings in found.items() if findings}


def unlike_training(image: ImageExtent, task: Task) -> list[str]:
    """Returns how an image differs from the training images, one text for each finding; empty where it does not.

    Without `training_images` only the intensity window is checked.
    """
    findings = _unlike_window(image.values, task.intensity)
    if task.training_images is not None:
        unit = "pixels" if task.axcodes is None else "mm"
        findings += _unlike_geometry(image, task.training_images, unit)
        findings += _unlike_values(image.values, task.training_images.values, task.intensity.mode)
    return findings


def _unlike_geometry(image: ImageExtent, training: TrainingImages, unit: str) -> list[str]:
    distances = () if image.slices is None or training.slice_mm is None else (image.slices,)
    compared = (
        ("field of view", (image.field_of_view,), training.field_of_view_mm, FIELD_OF_VIEW_FACTOR),
        ("pixel spacing", image.pixels, training.pixel_mm, PIXEL_FACTOR),
        ("slice distance", distances, training.slice_mm or (0.0, 0.0), SLICE_FACTOR),
    )
    return [
        f"{name} {_span(_range(found), unit)}, in training {_span(known, unit)}"
        for name, found, known, factor in compared
        if found and not known[0] / factor <= min(found) <= max(found) <= known[1] * factor
    ]


def _unlike_window(values: tuple[float, float], intensity: Intensity) -> list[str]:
    """Returns a finding where a window of HU or colour shows nothing of the image; percentiles always fit."""
    if intensity.mode == "percentile":
        return []
    window = (intensity.lower, intensity.upper)
    if values[1] <= window[0] or values[0] >= window[1]:
        return [f"values {_span(values)} lie outside the intensity window {_span(window)}"]
    if values[1] - values[0] < SMALLEST_SPREAD * (window[1] - window[0]):
        return [f"values {_span(values)} span hardly any of the intensity window {_span(window)}"]
    return []


def _unlike_values(values: tuple[float, float], training: tuple[float, float], mode: str) -> list[str]:
    """Compares HU as they are; where each image is scaled by its own percentiles, only HU are recognised as others."""
    if mode == "hu_window":
        expected = (max(training[0], AIR_HU) + VALUE_TOLERANCE, max(training[1], HIGHEST_HU) + VALUE_TOLERANCE)
        unlike = values[0] > expected[0] or values[1] > expected[1]
    else:
        unlike = values[0] < min(training[0], 0.0) - VALUE_TOLERANCE
    return [f"values {_span(values)}, in training {_span(training)}"] if unlike else []


def _range(numbers: Sequence[float]) -> tuple[float, float]:
    return float(f"{min(numbers):.6g}"), float(f"{max(numbers):.6g}")


def _span(numbers: tuple[float, float], unit: str = "") -> str:
    text = " to ".join(dict.fromkeys(f"{number:.4g}" for number in numbers))
    return f"{text} {unit}".rstrip()

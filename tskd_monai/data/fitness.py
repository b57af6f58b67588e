"""Whether an image is suitable for a task's network.

Another kind of image, number of channels or modality is refused. An image whose grid or range of values differs from
the training images causes a warning or is refused, as the task states.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.data.utils import affine_to_spacing
from monai.transforms import MapTransform

from tskd_monai.data.output_names import case_title, image_title
from tskd_monai.data.task import REFUSE, Intensity, Task, TrainingImages

logger = logging.getLogger(__name__)

CT = "CT"
HOUNSFIELD_MODE = "hu_window"
PIXELS = "pixels"
"""Value of `unit` in the metadata of a 2D image file."""
UNLIKE_TRAINING = "unlike_training"
"""Key in metadata, records and `summary.json` that states how an image differs from the training images."""
FIELD_OF_VIEW_FACTOR = 2.0
"""Tolerance beyond the range of the training images: scanners and patients vary less, a crop of an organ more."""
PIXEL_FACTOR = 4.0
"""Tolerance of the in-plane spacing, which is resampled and varies with the acquisition matrix."""
SLICE_FACTOR = 10.0
"""Tolerance of the slice distance: slices are segmented one by one, and the same CT exists at 0.6 mm and at 5 mm."""
AIR_HU = -1024.0
"""Lower values are padding outside of the scanner's field of view."""
HIGHEST_HU = 3071.0
"""Largest 12-bit value; metal exceeds it."""
VALUE_TOLERANCE = 500.0
"""Half the difference between air and water: crops of the body vary less, shifted or other values more."""
SMALLEST_SPREAD = 0.05
"""Fraction of the window: an image with less contrast was scaled to [0, 1], or is empty."""


@dataclass(frozen=True)
class ImageExtent:
    """Field of view, spacing and range of values of an image.

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
        slice_axis: axis along which the slices lie; None for 2D images, whose first two axes are the plane.
    """
    rows, columns = (axis for axis in range(3) if axis != (2 if slice_axis is None else slice_axis))
    field_of_view = max(float(shape[axis] * spacing[axis]) for axis in (rows, columns))
    slices = None if slice_axis is None or shape[slice_axis] < 2 else float(spacing[slice_axis])
    return ImageExtent(field_of_view, (float(spacing[rows]), float(spacing[columns])), slices, values)


def ranges_over(images: Sequence[ImageExtent]) -> TrainingImages:
    """Returns the ranges over at least one image."""
    distances = [image.slices for image in images if image.slices is not None]
    return TrainingImages(
        field_of_view_mm=_range([image.field_of_view for image in images]),
        pixel_mm=_range([spacing for image in images for spacing in image.pixels]),
        slice_mm=_range(distances) if distances else None,
        values=_range([value for image in images for value in image.values]),
    )


def unlike_most(images: Mapping[str, ImageExtent], unit: str) -> dict[str, list[str]]:
    """Returns how the geometry of training images differs from the median, by name, for images far from it.

    Args:
        images: extents by name.
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
    """Returns how an image differs from the training images, one text for each finding.

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
    """Returns a finding if a window of HU or colour shows nothing of the image; percentiles always fit."""
    if intensity.mode == "percentile":
        return []
    window = (intensity.lower, intensity.upper)
    if values[1] <= window[0] or values[0] >= window[1]:
        return [f"values {_span(values)} lie outside the intensity window {_span(window)}"]
    if values[1] - values[0] < SMALLEST_SPREAD * (window[1] - window[0]):
        return [f"values {_span(values)} span hardly any of the intensity window {_span(window)}"]
    return []


def _unlike_values(values: tuple[float, float], training: tuple[float, float], mode: str) -> list[str]:
    """Compares HU directly; for images scaled by their own percentiles, only detects values that are HU."""
    if mode == "hu_window":
        expected = (max(training[0], AIR_HU) + VALUE_TOLERANCE, max(training[1], HIGHEST_HU) + VALUE_TOLERANCE)
        unlike = values[0] > expected[0] or values[1] > expected[1]
    else:
        unlike = values[0] < min(training[0], 0.0) - VALUE_TOLERANCE
    return [f"values {_span(values)}, in training {_span(training)}"] if unlike else []


def _range(numbers: Sequence[float]) -> tuple[float, float]:
    return float(f"{min(numbers):.6g}"), float(f"{max(numbers):.6g}")


def short_number(number: float) -> str:
    """Returns a number with four significant digits; from 10,000 on as a whole number, without an exponent."""
    return f"{number:.4g}" if abs(number) < 9999.5 else f"{number:,.0f}"


def _span(numbers: tuple[float, float], unit: str = "") -> str:
    text = " to ".join(dict.fromkeys(short_number(number) for number in numbers))
    return f"{text} {unit}".rstrip()


SAMPLED_VALUES = 1_000_000
"""Voxels sampled for the percentiles of an image; those of a whole CT take a second."""


class CompareWithTrainingd(MapTransform):
    """Warns of an image that is unlike the training images, or refuses it, as the task states.

    Args:
        keys: keys of images (C, H, W, D) in the task's orientation, MetaTensor.
        task: states `training_images`, and in `unlike_training` whether to warn or to refuse.
    """

    def __init__(self, keys: KeysCollection, task: Task) -> None:
        super().__init__(keys)
        self.task = task

    def __call__(self, data: Mapping[Hashable, Any]) -> Mapping[Hashable, Any]:
        """Returns the dictionary; the image's metadata state how it differs, or hold an empty string.

        Raises:
            ValueError: when an image is unlike the training images and the task refuses such images.
        """
        for key in self.key_iterator(dict(data)):
            image = data[key]
            found = "; ".join(self._findings(image))
            image.meta[UNLIKE_TRAINING] = found
            if not found:
                continue
            name = case_title(image.meta)
            if self.task.unlike_training == REFUSE:
                raise ValueError(
                    f"Expected an image like those that the model was trained on in {name}, found {found}; check the "
                    "image, or set unlike_training in task.json to warn to segment it all the same."
                )
            logger.warning("%s is unlike the images that the model was trained on: %s.", name, found)
        return data

    def _findings(self, image: MetaTensor) -> list[str]:
        values = value_range(image)
        if values is None:
            return ["it has no finite values"]
        spacing = affine_to_spacing(np.asarray(image.affine, dtype=np.float64)).tolist()
        axis = None if self.task.axcodes is None else 2
        return unlike_training(image_extent(image.shape[1:], spacing, values, axis), self.task)


def value_range(image: MetaTensor) -> tuple[float, float] | None:
    """Returns the 0.5th and 99.5th percentile of the finite values of an image (C, H, W, D); None without any."""
    step = max(1, round((image.numel() / SAMPLED_VALUES) ** 0.5))
    sample = np.asarray(image.as_tensor()[:, ::step, ::step])
    finite = sample[np.isfinite(sample)]
    lowest, highest = np.percentile(finite, [0.5, 99.5]).tolist() if finite.size else (0.0, 0.0)
    return (lowest, highest) if finite.size else None


class CheckImageFitsTaskd(MapTransform):
    """Refuses an image whose kind (volume or 2D image file), number of channels or modality differs from the task's.

    A 2D image file has no size in mm and no orientation. Only DICOM states a modality: CT requires a task with a window
    of HU, and such a task requires CT.

    Args:
        keys: keys of images `(C, …)`.
        channels: input channels of the network.
        intensity_mode: mode of the task: `percentile`, `hu_window` or `rgb`.
        flat: whether the task is for 2D image files.
    """

    def __init__(self, keys: KeysCollection, channels: int, intensity_mode: str, flat: bool = False) -> None:
        super().__init__(keys)
        self.flat = flat
        self.channels = channels
        self.wants_ct = intensity_mode == HOUNSFIELD_MODE

    def __call__(self, data: Mapping[Hashable, Any]) -> Mapping[Hashable, Any]:
        """Returns the dictionary unchanged.

        Raises:
            ValueError: when an image is not suitable; names it, what was expected and what was found.
        """
        for key in self.key_iterator(dict(data)):
            image = data[key]
            meta = image.meta if isinstance(image, MetaTensor) else {}
            name = image_title(meta)
            if "unit" in meta:
                self._check_kind(meta["unit"] == PIXELS, name)
            if image.shape[0] != self.channels:
                raise ValueError(
                    f"Expected {self.channels} channel(s) in {name}, found {image.shape[0]}; "
                    "this model was trained on images of the other kind (grey has 1 channel, colour 3)."
                )
            modality = meta.get("modality")
            if modality and (modality == CT) != self.wants_ct:
                raise ValueError(
                    f"Expected {'CT' if self.wants_ct else 'another modality than CT'} for this model, found "
                    f"{modality} in {name}; choose a model for {modality}."
                )
        return data

    def _check_kind(self, flat: bool, name: str) -> None:
        if flat and not self.flat:
            raise ValueError(
                f"Expected a volume (NIfTI, NRRD, MetaImage, DICOM) for this model, found the 2D image file {name}, "
                "which has no spacing and no orientation; send the volume that it was made from."
            )
        if self.flat and not flat:
            raise ValueError(
                f"Expected a 2D image file, such as PNG, for this model, found the volume {name}; its slices are "
                "oriented and spaced in mm, which this model was not trained on. Choose a model of volumes."
            )


class NameOutputd(MapTransform):
    """Copies the item's `name` into the metadata of its image, after which outputs are named.

    Args:
        keys: keys of images.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> Mapping[Hashable, Any]:
        """Returns the dictionary; an item without one keeps the file's name."""
        for key in self.key_iterator(dict(data)):
            if "name" in data:
                data[key].meta["output_name"] = str(data["name"])
        return data

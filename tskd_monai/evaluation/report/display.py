"""Images and label maps arranged for display: radiological orientation, slice axis last."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tskd_monai.data.grid import body_spacing, reoriented
from tskd_monai.data.image_file import is_image_file, read_pixels
from tskd_monai.data.labels import Grid, check_label_grid
from tskd_monai.data.volume_reader import VolumeReader
from tskd_monai.evaluation.label_maps import LabelMap, load_reference

THICK = 1.2  # an axis is the slice axis if its spacing exceeds the others' by this factor
VIEWS = {  # slice axis in RAS -> (row, column, slice axis), all seen with rows and columns reversed
    2: ((1, 0, 2), "Axial", "anterior up, patient's right on the left"),
    1: ((2, 0, 1), "Coronal", "superior up, patient's right on the left"),
    0: ((2, 1, 0), "Sagittal", "superior up, anterior on the left"),
}


@dataclass(frozen=True)
class DisplayVolume:
    """A volume for display.

    Attributes:
        array: (H, W, D) or, in colour, (H, W, D, 3); row 0 is the top, column 0 the viewer's left.
        pixel_mm: (mm per row, mm per column); 1 for 2D image files.
        view: "Axial", "Coronal", "Sagittal", or "" for a 2D image file.
        orientation: which way is up and left, in words; "" for a 2D image file.
        grid: grid of the file, as stored.
    """

    array: np.ndarray
    pixel_mm: tuple[float, float]
    view: str
    orientation: str
    grid: Grid


def load_for_display(path: Path) -> DisplayVolume:
    """Reads a NIfTI, NRRD or MetaImage file or a DICOM series in radiological orientation, or a 2D image file as it is.

    The slice axis is an axis of length 1, else one clearly thicker than the others, else the axial one.

    Raises:
        FileNotFoundError: if the file does not exist, or a folder contains no series.
        ValueError: if the file is not an image or volume, or the series is rejected.
    """
    path = Path(path)
    if is_image_file(path):
        return arranged(read_pixels(path), None)
    voxels, meta = VolumeReader(irregular="resample").read(path)
    return arranged(voxels, meta["affine"])


def arranged(array: np.ndarray, affine: np.ndarray | None) -> DisplayVolume:
    """Returns an array in radiological orientation, as `load_for_display` does with a file.

    Args:
        array: (X, Y, Z) voxels.
        affine: voxel index to RAS mm, (4, 4); None for a 2D image, which is returned unchanged.
    """
    grid = tuple(array.shape[:3]), affine
    if affine is None:
        return DisplayVolume(array, (1.0, 1.0), "", "", grid)
    turned, spacing = reoriented(array, affine, "RAS"), body_spacing(affine)
    order, view, orientation = VIEWS[_slice_axis(turned.shape, spacing)]
    shown = np.flip(turned.transpose(order), axis=(0, 1))
    return DisplayVolume(shown, (float(spacing[order[0]]), float(spacing[order[1]])), view, orientation, grid)


def reference_on_image(
    path: Path, volume: DisplayVolume, labels: Mapping[int, str], names: str, ignore: int | None = None
) -> LabelMap:
    """Reads a reference as the scorer does, on the grid of the image it is drawn over, as training does.

    Args:
        path: file of the reference.
        volume: the image.
        labels: value -> name of the foreground labels.
        names: names of reference and image, for messages.
        ignore: value of voxels to ignore, shown as background; None: there are none.

    Raises:
        ValueError: if training or the scorer would reject the reference.
    """
    shape, affine = volume.grid
    reference = load_reference(path, labels, ignore).on(shape, affine)
    check_label_grid(volume.grid, (reference.array.shape, reference.affine), names)
    return reference


def labels_for_display(label_map: LabelMap) -> np.ndarray:
    """Returns the labels (H, W, D) in the orientation of `load_for_display`."""
    return arranged(label_map.array, label_map.affine).array


def to_grey_levels(pixels: np.ndarray) -> np.ndarray:
    """Returns a slice (H, W) or (H, W, 3) as uint8: 8-bit images unchanged, others from percentile 1 to 99.5."""
    if pixels.dtype == np.uint8:
        return pixels
    values = np.nan_to_num(pixels.astype(np.float32))
    low, high = np.percentile(values, [1, 99.5])
    return (255 * np.clip((values - low) / max(high - low, 1e-6), 0, 1)).round().astype(np.uint8)


def fullest_slice(labels: np.ndarray) -> int:
    """Returns the index of the slice of (H, W, D) that shows the most of all structures.

    Areas are relative to the structure's largest slice, so that small organs count as much as large ones. Without
    structures it is the middle slice.
    """
    values = [value for value in np.unique(labels) if value != 0]
    if not values:
        return labels.shape[2] // 2
    areas = np.stack([(labels == value).sum(axis=(0, 1)) for value in values])
    return int((areas / areas.max(axis=1, keepdims=True)).sum(axis=0).argmax())


def _slice_axis(shape: tuple[int, ...], spacing: np.ndarray) -> int:
    if 1 in shape:
        return shape.index(1)
    thickest = int(np.argmax(spacing))
    return thickest if spacing[thickest] > THICK * np.delete(spacing, thickest).max() else 2

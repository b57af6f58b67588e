"""Label maps read from files for evaluation: whole numbers on a grid whose geometry is checked, never assumed."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from nibabel.affines import voxel_sizes

from tskd_monai.data.image_file import is_image_file
from tskd_monai.data.labels import listed_values, whole_labels
from tskd_monai.data.nifti import corner_distance, same_grid
from tskd_monai.data.volume_reader import VolumeReader

logger = logging.getLogger(__name__)

MASK_WHITE = 255  # what an 8-bit black and white mask holds for "yes"
LARGEST_VALUE = 2**31 - 1
SHEAR_TOLERANCE = 1e-3  # cosine between two axes of the grid


@dataclass(frozen=True)
class LabelMap:
    """A label map and its grid.

    Attributes:
        array: (H, W, D) integers in the file's own orientation; D = 1 for a 2D image.
        affine: (4, 4) voxel index to world, RAS mm; None for a 2D image file, which has no geometry.
        spacing: mm per voxel along each axis; 1 per pixel for a 2D image file.
        path: the file.
    """

    array: np.ndarray
    affine: np.ndarray | None
    spacing: tuple[float, float, float]
    path: Path


def load_label_map(path: Path) -> LabelMap:
    """Reads a label map from a NIfTI file or a single-channel 2D image file (png, bmp, tif), as training reads it.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file holds more than one label per voxel, fractions, or a sheared grid.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"Expected a label map (NIfTI or 2D image file) at {path}, found no file.")
    array, meta = VolumeReader(labels=True).read(path)
    if array.ndim != 3:
        raise ValueError(
            f"Expected one number per pixel in {path}, found shape {array.shape}; save label maps as grey PNG whose "
            "pixel values are the labels."
        )
    flat = is_image_file(path)
    spacing = (1.0, 1.0, 1.0) if flat else _grid_spacing(meta["affine"], path)
    return LabelMap(_as_integers(array, path), None if flat else meta["affine"], spacing, path)


def binary_mask_as_label(label_map: LabelMap, labels: Mapping[int, str]) -> LabelMap:
    """Returns the map with 0/255 turned into 0/label where the task has a single label other than 255.

    Many public 2D sets store a mask as black and white. With one label the meaning is certain; a notice is logged.
    """
    if len(labels) != 1 or MASK_WHITE in labels:
        return label_map
    if not np.isin(label_map.array, (0, MASK_WHITE)).all() or not label_map.array.any():
        return label_map
    label = next(iter(labels))
    logger.info("%s is a black and white mask: %d is read as label %d.", label_map.path.name, MASK_WHITE, label)
    return replace(label_map, array=(label_map.array == MASK_WHITE) * np.int64(label))


def check_same_grid(prediction: LabelMap, reference: LabelMap) -> None:
    """Raises ValueError unless both maps have the same shape and place each voxel alike (`same_grid`)."""
    found, expected = prediction.path, reference.path
    if prediction.array.shape != reference.array.shape:
        raise ValueError(
            f"Expected the shape {reference.array.shape} of {expected} in {found}, found {prediction.array.shape}; "
            "write predictions on the grid of the image they were made for."
        )
    if (prediction.affine is None) != (reference.affine is None):
        raise ValueError(
            f"Expected prediction and reference in the same kind of file, found {found} and {expected}: one has a "
            "geometry (NIfTI) and the other has none (2D image); write both as the same kind."
        )
    if prediction.affine is None or reference.affine is None:
        return
    shape = reference.array.shape
    if not same_grid(shape, reference.affine, prediction.affine):
        raise ValueError(
            f"Expected the affine of {expected} in {found}, found one that moves a corner of the volume by "
            f"{corner_distance(shape, reference.affine, prediction.affine):.3g} mm; write predictions in the geometry "
            "of their image."
        )


def _grid_spacing(affine: np.ndarray, path: Path) -> tuple[float, float, float]:
    axes = affine[:3, :3] / voxel_sizes(affine)
    if not np.abs(axes.T @ axes - np.eye(3)).max() <= SHEAR_TOLERANCE:
        raise ValueError(
            f"Expected a grid with orthogonal axes in {path}, found a sheared one, on which distances in mm cannot be "
            "measured along the axes; resample prediction and reference to an orthogonal grid."
        )
    first, second, third = (float(size) for size in voxel_sizes(affine))
    return first, second, third


def _as_integers(array: np.ndarray, path: Path) -> np.ndarray:
    whole = whole_labels(array, path.name)
    known = (whole == np.rint(whole)) & (np.abs(whole) <= LARGEST_VALUE)
    if not known.all():
        raise ValueError(
            f"Expected whole numbers as labels in {path}, found {listed_values(whole[~known])} (probabilities?)."
        )
    return whole.astype(np.int32)

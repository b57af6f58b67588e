"""Label maps read from files for evaluation: whole numbers on a grid whose geometry is checked, never assumed."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine, voxel_sizes
from PIL import Image

from tskd_monai.data.image_file import check_image_claims
from tskd_monai.data.nifti import check_nifti_claims

logger = logging.getLogger(__name__)

NIFTI_SUFFIXES = (".nii", ".nii.gz")
MASK_WHITE = 255  # what an 8-bit black and white mask holds for "yes"
GRID_TOLERANCE_MM = 1e-3  # far below a voxel, well above the rounding of float32 NIfTI headers
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
    """Reads a label map from a NIfTI file or a single-channel 2D image file (png, bmp, tif).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file holds more than one label per voxel, fractions, or a sheared grid.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"Expected a label map (NIfTI or 2D image file) at {path}, found no file.")
    return _load_nifti(path) if path.name.endswith(NIFTI_SUFFIXES) else _load_image(path)


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
    """Raises ValueError unless both maps have the same shape and place each voxel within 1e-3 mm."""
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
    corners = np.array(list(product(*((0, size - 1) for size in reference.array.shape))))
    offset = np.abs(apply_affine(prediction.affine, corners) - apply_affine(reference.affine, corners)).max()
    if not offset <= GRID_TOLERANCE_MM:
        raise ValueError(
            f"Expected the affine of {expected} in {found}, found one that moves a corner of the volume by "
            f"{offset:.3g} mm (tolerance {GRID_TOLERANCE_MM:g} mm); write predictions in the geometry of their image."
        )


def _load_nifti(path: Path) -> LabelMap:
    check_nifti_claims(path)
    volume: Any = nib.load(path)  # nibabel types it as an image without data
    array = np.asanyarray(volume.dataobj)
    array = array.reshape(array.shape[:3] + tuple(size for size in array.shape[3:] if size != 1))
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim != 3:
        raise ValueError(f"Expected a label map (H, W, D) in {path}, found shape {array.shape}.")
    axes = volume.affine[:3, :3] / voxel_sizes(volume.affine)
    if not np.abs(axes.T @ axes - np.eye(3)).max() <= SHEAR_TOLERANCE:
        raise ValueError(
            f"Expected a grid with orthogonal axes in {path}, found a sheared one, on which distances in mm cannot be "
            "measured along the axes; resample prediction and reference to an orthogonal grid."
        )
    first, second, third = (float(size) for size in voxel_sizes(volume.affine))
    return LabelMap(_as_integers(array, path), volume.affine, (first, second, third), path)


def _load_image(path: Path) -> LabelMap:
    with Image.open(path) as image:
        check_image_claims(image, path)
        array = np.asarray(image)
    if array.ndim != 2:
        raise ValueError(
            f"Expected one number per pixel in {path}, found shape {array.shape}; save label maps as grey PNG whose "
            "pixel values are the labels."
        )
    return LabelMap(_as_integers(array[..., None], path), None, (1.0, 1.0, 1.0), path)


def _as_integers(array: np.ndarray, path: Path) -> np.ndarray:
    if np.issubdtype(array.dtype, np.integer):
        return array
    if array.dtype == bool:
        return array.astype(np.uint8)
    rounded = np.rint(array)
    if not np.array_equal(rounded, array):
        raise ValueError(f"Expected whole numbers as labels in {path}, found fractions or NaN (probabilities?).")
    return rounded.astype(np.int64)

"""The voxel grid of a volume, given by its affine to RAS mm: comparison of grids, and directions of the axes.

Training, scoring, writing and display compare grids with these functions, so they accept the same images.
"""

from __future__ import annotations

import logging

import nibabel as nib
import numpy as np

logger = logging.getLogger(__name__)

GRID_TOLERANCE_MM = 0.1
"""Largest distance that a corner of a volume may move between two affines of the same grid..."""

GRID_TOLERANCE_VOXELS = 0.1
"""... as a fraction of its shortest voxel side, the smaller limit in microscopy and small animals."""

SHEAR_TOLERANCE = 1e-3
"""Largest cosine between two axes of an orthogonal grid: affines are stored in single precision."""


def corner_distance(shape: tuple[int, ...], first: np.ndarray, second: np.ndarray) -> float:
    """Returns the largest distance, mm, between the eight corners of a volume under two affines.

    Args:
        shape: voxels along the three axes of the volume.
        first: affine (4, 4).
        second: affine (4, 4).
    """
    corners = np.array(np.meshgrid(*[(0, max(size - 1, 1)) for size in shape], indexing="ij")).reshape(3, -1)
    moved = (first - second) @ np.vstack([corners, np.ones(corners.shape[1])])
    return float(np.linalg.norm(moved[:3], axis=0).max())


def same_grid(shape: tuple[int, ...], first: np.ndarray, second: np.ndarray) -> bool:
    """Returns whether two affines put a volume at the same position: no corner moves by more than the tolerance.

    Args:
        shape: voxels along the three axes of the volume.
        first: affine (4, 4), to mm.
        second: affine (4, 4), to mm.
    """
    side = float(np.linalg.norm(np.asarray(first)[:3, :3], axis=0).min())
    return corner_distance(shape, first, second) <= min(GRID_TOLERANCE_MM, GRID_TOLERANCE_VOXELS * side)


def voxel_spacing(affine: np.ndarray) -> tuple[float, float, float]:
    """Returns the voxel size along each axis of the array, mm."""
    first, second, third = (float(size) for size in nib.affines.voxel_sizes(affine))
    return first, second, third


def shear_degrees(affine: np.ndarray) -> float:
    """Returns the largest deviation of two axes of the grid from a right angle, degrees; 0 within the tolerance."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    cosine = float(np.abs(axes.T @ axes - np.eye(3)).max())
    return float(np.degrees(np.arcsin(min(cosine, 1.0)))) if cosine > SHEAR_TOLERANCE else 0.0


def checked_affine(affine: np.ndarray, name: str) -> np.ndarray:
    """Returns the affine of a file, float64; refuses one that is not invertible, and warns of shear.

    Args:
        affine: affine to RAS mm (4, 4).
        name: name of the file in messages.
    """
    volume = abs(np.linalg.det(affine[:3, :3])) if np.isfinite(affine).all() else 0.0
    if volume < np.finfo(np.float32).tiny or np.linalg.cond(affine[:3, :3]) > 1e6:
        raise ValueError(f"Expected an invertible affine in {name}, found {affine[:3].tolist()}; repair the header.")
    if angle := shear_degrees(affine):
        logger.warning("%s: its axes are sheared by %.1f degrees; they are resampled for the network.", name, angle)
    return np.array(affine, dtype=np.float64)


def require_orthogonal(affine: np.ndarray, name: str) -> None:
    """Raises ValueError for a sheared grid, on which distances in mm cannot be measured along the axes.

    Args:
        affine: to RAS mm (4, 4).
        name: name of the file in the message.
    """
    if angle := shear_degrees(affine):
        raise ValueError(
            f"Expected a grid with orthogonal axes in {name}, found one sheared by {angle:.1f} degrees, on which "
            "distances in mm cannot be measured along the axes; resample the image and its labels to an orthogonal "
            "grid."
        )


def reoriented(array: np.ndarray, affine: np.ndarray, axcodes: str) -> np.ndarray:
    """Returns a view of a volume whose axes point in given directions, as nearly as the grid allows.

    Args:
        array: (X, Y, Z), optionally with further axes.
        affine: to RAS mm (4, 4).
        axcodes: such as `RAS`: the first axis to the right, the second to anterior, the third to superior.
    """
    turn = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(axcodes))
    return nib.orientations.apply_orientation(array, turn)


def body_spacing(affine: np.ndarray) -> np.ndarray:
    """Returns the voxel size, mm (3,), along the axes that are nearest to left-right, front-back and head-foot."""
    sizes = np.empty(3)
    sizes[nib.io_orientation(affine)[:, 0].astype(int)] = nib.affines.voxel_sizes(affine)
    return sizes


def aligned(
    array: np.ndarray, affine: np.ndarray, shape: tuple[int, ...], target: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns a volume with its axes in the order of another grid, and its affine, if that makes them one grid.

    A DICOM series and the label that a converter wrote for it hold the same voxels, often with rows in opposite order.
    Nothing is interpolated; a volume on any other grid is returned unchanged, to be rejected by `same_grid`.

    Args:
        array: (X, Y, Z), optionally with further axes.
        affine: affine of the array to RAS mm (4, 4).
        shape: voxels along the three axes of the other grid.
        target: affine of the other grid to RAS mm (4, 4).
    """
    turn = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.io_orientation(target))
    moved = nib.orientations.apply_orientation(array, turn)
    moved_affine = affine @ nib.orientations.inv_ornt_aff(turn, array.shape[:3])
    if moved.shape[:3] == tuple(shape) and same_grid(tuple(shape), target, moved_affine):
        return moved, moved_affine
    return array, affine


def places_on(
    mask: np.ndarray, affine: np.ndarray, shape: tuple[int, ...], target: np.ndarray, name: str
) -> np.ndarray:
    """Returns the voxels of another grid, integers (3, n), that the voxels of a mask are.

    The grid of the mask may be a part of the other one, with its axes in another order; nothing is interpolated.

    Args:
        mask: bool (X, Y, Z).
        affine: affine of the mask to RAS mm (4, 4).
        shape: voxels along the three axes of the other grid.
        target: affine of the other grid to RAS mm (4, 4).
        name: name of the mask's file in messages.

    Raises:
        ValueError: if the mask lies between voxels of the other grid, or outside of it.
    """
    steps = np.rint(np.linalg.inv(target) @ affine)
    turns = np.abs(steps[:3, :3])
    is_turn = (turns.sum(axis=0) == 1).all() and (turns.sum(axis=1) == 1).all()
    if not is_turn or not same_grid(mask.shape, target @ steps, affine):
        raise ValueError(
            f"Expected a segmentation on the voxels of its image in {name}, found one between them; resample it onto "
            "the grid of the image."
        )
    places = steps[:3, :3].astype(int) @ np.argwhere(mask).T + steps[:3, 3:].astype(int)
    if (places < 0).any() or (places >= np.array(shape)[:, None]).any():
        raise ValueError(
            f"Expected a segmentation within its image in {name}, found voxels outside; pair each image with its label."
        )
    return places

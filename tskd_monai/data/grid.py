"""The voxel grid of a volume, given by its affine to RAS mm: whether two are one, and how its axes lie in the body.

Training, scoring, writing and display all compare grids here, so that what one of them accepts none of them refuses.
"""

from __future__ import annotations

import nibabel as nib
import numpy as np

GRID_TOLERANCE_MM = 0.1
"""Two affines put a volume at the same position when no corner of it moves further than this..."""

GRID_TOLERANCE_VOXELS = 0.1
"""... nor further than this fraction of its shortest voxel side, which is less in microscopy and small animals."""

SHEAR_TOLERANCE = 1e-3
"""Largest cosine between two axes of a grid that counts as orthogonal: affines are stored in single precision."""


def corner_distance(shape: tuple[int, ...], first: np.ndarray, second: np.ndarray) -> float:
    """Returns how far apart two affines put the corners of a volume: the largest of the eight distances, mm.

    Args:
        shape: of the volume, three voxel counts.
        first: affine (4, 4).
        second: affine (4, 4).
    """
    corners = np.array(np.meshgrid(*[(0, max(size - 1, 1)) for size in shape], indexing="ij")).reshape(3, -1)
    moved = (first - second) @ np.vstack([corners, np.ones(corners.shape[1])])
    return float(np.linalg.norm(moved[:3], axis=0).max())


def same_grid(shape: tuple[int, ...], first: np.ndarray, second: np.ndarray) -> bool:
    """Returns whether two affines put a volume at the same position: no corner moves by more than the tolerance.

    Args:
        shape: of the volume, three voxel counts.
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
    """Returns by how many degrees two axes of the grid miss a right angle; 0 within the tolerance."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    cosine = float(np.abs(axes.T @ axes - np.eye(3)).max())
    return float(np.degrees(np.arcsin(min(cosine, 1.0)))) if cosine > SHEAR_TOLERANCE else 0.0


def require_orthogonal(affine: np.ndarray, name: str) -> None:
    """Raises ValueError for a sheared grid, on which no distance in mm can be measured along the axes.

    Args:
        affine: to RAS mm (4, 4).
        name: of the file in the message.
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
        array: (X, Y, Z), perhaps with further axes.
        affine: to RAS mm (4, 4).
        axcodes: such as `RAS`: the first axis towards the right, the second to anterior, the third to superior.
    """
    turn = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(axcodes))
    return nib.orientations.apply_orientation(array, turn)


def body_spacing(affine: np.ndarray) -> np.ndarray:
    """Returns the voxel size, mm (3,), along the axes that are nearest to left-right, front-back and head-foot."""
    sizes = np.empty(3)
    sizes[nib.io_orientation(affine)[:, 0].astype(int)] = nib.affines.voxel_sizes(affine)
    return sizes

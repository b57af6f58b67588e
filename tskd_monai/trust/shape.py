"""Signals of the shape of a predicted structure: size, position, parts, and contact with the edges of the image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

MM3_PER_ML = 1000.0
CORNERS = np.ones((3, 3, 3), dtype=bool)
"""Connectivity across corners, as that of the filter of largest components."""


@dataclass(frozen=True)
class Shape:
    """Shape of a structure.

    Attributes:
        volume: mL, or pixels / 1000 for images without a spacing; 0 if the structure is not found.
        position: centroid along rows, columns and slices, as fractions of the image's sides.
        extent: thickness along the slices, mm.
        second_part: size of the second largest component as a fraction of the largest.
        cut: area in the first or last slice, the larger, as a fraction of the largest area of a slice; 0 for one slice.
        border: fraction of the structure's slices in which it touches the border of the slice.
    """

    volume: float
    position: tuple[float, float, float]
    extent: float
    second_part: float
    cut: float
    border: float


NOT_FOUND = Shape(0.0, (0.5, 0.5, 0.5), 0.0, 0.0, 0.0, 0.0)


def structure_shape(mask: np.ndarray, spacing: tuple[float, float, float], only_largest: bool = False) -> Shape:
    """Returns the shape of a structure.

    Args:
        mask: (D, H, W), bool.
        spacing: mm along rows, columns and slices.
        only_largest: only the largest component is kept in the result: a few wrong pixels far away do not count, except
            as `second_part`.
    """
    second = second_part(mask)
    mask = largest_part(mask) if only_largest else mask
    areas = mask.sum(axis=(1, 2))
    if not areas.any():
        return NOT_FOUND
    slices = np.flatnonzero(areas)
    rows, columns, depth = (
        float((np.arange(len(count)) + 0.5) @ count / count.sum() / len(count))
        for count in (mask.sum(axis=(0, 2)), mask.sum(axis=(0, 1)), areas)
    )
    touched = mask[:, (0, -1), :].any(axis=(1, 2)) | mask[:, :, (0, -1)].any(axis=(1, 2))
    return Shape(
        volume=float(areas.sum() * np.prod(spacing)) / MM3_PER_ML,
        position=(rows, columns, depth),
        extent=float(slices[-1] - slices[0] + 1) * spacing[2],
        second_part=second,
        cut=0.0 if len(areas) == 1 else float(max(areas[0], areas[-1]) / areas.max()),
        border=float(touched.sum() / len(slices)),
    )


def second_part(mask: np.ndarray) -> float:
    """Returns the size of the second largest component as a fraction of the largest; 0 with one component."""
    _, sizes = _components(mask)
    if len(sizes) < 2:
        return 0.0
    second, largest = np.sort(sizes)[-2:]
    return float(second / largest)


def largest_part(mask: np.ndarray) -> np.ndarray:
    """Returns the largest connected component of a mask (D, H, W)."""
    parts, sizes = _components(mask)
    if len(sizes) < 2:
        return mask
    kept = np.zeros_like(mask)
    kept[_box(mask)] = parts == 1 + sizes.argmax()
    return kept


def _components(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the number of each voxel's component in the bounding box, and the sizes of the components."""
    if not mask.any():
        return np.zeros(mask.shape, dtype=int), np.zeros(0, dtype=int)
    parts, _ = ndimage.label(mask[_box(mask)], CORNERS)
    return parts, np.bincount(parts.ravel())[1:]


def _box(mask: np.ndarray) -> tuple[slice, ...]:
    (box,) = ndimage.find_objects(mask.astype(np.uint8))
    return tuple(box)

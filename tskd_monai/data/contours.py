"""Closed contours on the pixels of a slice: filling them by the rule of pixel centres, and tracing them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def winding_and_crossings(polygon: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Returns how often a closed polygon winds around each pixel centre, and the edges that a ray to the left crosses.

    A pixel is inside by the even-odd rule where the second number is odd, so that a hole joined to the outer contour by
    a keyhole is left out. A centre on an edge belongs to the polygon on one side of it only: of two polygons that share
    an edge, exactly one contains the centre.

    Args:
        polygon: corners (n, 2) in pixels; centres have whole numbers. The last corner is joined to the first.
        shape: pixels along the first and the second axis.

    Returns:
        Two int32 arrays of the shape.
    """
    columns, rows = shape
    start, end = polygon, np.roll(polygon, -1, axis=0)
    low, high = np.minimum(start[:, 1], end[:, 1]), np.maximum(start[:, 1], end[:, 1])
    # Rows from `low` on and below `high`: a corner at a pixel's centre counts for one of its two edges.
    first = np.clip(np.ceil(low), 0, rows).astype(int)
    count = np.maximum(np.clip(np.ceil(high), 0, rows).astype(int) - first, 0)
    edge = np.repeat(np.arange(len(polygon)), count)
    row = first[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count)
    run, rise = (end - start)[edge].T
    crossing = start[edge, 0] + (row - start[edge, 1]) * run / rise
    column = np.clip(np.ceil(crossing), 0, columns).astype(int)
    turns = np.zeros((2, columns + 1, rows), np.int32)
    np.add.at(turns[0], (column, row), np.sign(rise).astype(np.int32))
    np.add.at(turns[1], (column, row), 1)
    winding, crossings = np.cumsum(turns, axis=1)[:, :-1]
    return winding, crossings


def filled(polygons: Sequence[np.ndarray], shape: tuple[int, int], title: str) -> np.ndarray:
    """Returns the pixels inside the closed contours of one structure on one slice; a contour in another is a hole.

    Args:
        polygons: corners of each contour (n, 2) in pixels, as for `winding_and_crossings`.
        shape: pixels along the first and the second axis.
        title: structure and slice in messages.

    Raises:
        ValueError: if a contour runs over an area twice, or two contours overlap, so that what is inside is not known.
    """
    total = np.zeros(shape, bool)
    fills: list[np.ndarray] = []
    for polygon in polygons:
        winding, crossings = winding_and_crossings(polygon, shape)
        fill = crossings % 2 == 1
        twice = int(np.count_nonzero(fill != (winding != 0)))
        if twice:
            raise ValueError(
                f"Expected contours that do not cross themselves in {title}, found one that runs over {twice} pixels "
                "twice; correct it where it was drawn."
            )
        for other in fills:
            shared = int(np.count_nonzero(fill & other))
            if shared and (shared < min(fill.sum(), other.sum()) or np.array_equal(fill, other)):
                raise ValueError(
                    f"Expected contours beside or within one another in {title}, found two that overlap in {shared} "
                    "pixels; correct them where they were drawn."
                )
        fills.append(fill)
        total ^= fill
    return total


def traced(mask: np.ndarray) -> list[np.ndarray]:
    """Returns closed contours around the pixels of a mask, one for each area without gaps; filled, they give the mask.

    They run half-way between the centres of pixels inside and outside. A hole is joined to the contour around it by a
    keyhole: the contour runs to the hole, around it, and back along the same line.

    Args:
        mask: bool, pixels of one slice.

    Returns:
        Corners of each contour (n, 2) in pixels; the last one is joined to the first.
    """
    from scipy.ndimage import find_objects, label
    from skimage.measure import find_contours

    areas, _ = label(mask)  # 4-connected, as `find_contours` takes pixels that touch at a corner
    contours = []
    for number, place in enumerate(find_objects(areas), start=1):
        area = np.pad(areas[place] == number, 1).astype(np.uint8)
        offset = np.array([part.start for part in place]) - 1
        rings = [_corners(ring[:-1]) for ring in find_contours(area, 0.5, fully_connected="low")]
        contours.append(_with_keyholes(sorted(rings, key=_extent, reverse=True)) + offset)
    return contours


def _extent(ring: np.ndarray) -> float:
    return float(np.prod(np.ptp(ring, axis=0)))


def _corners(ring: np.ndarray) -> np.ndarray:
    """Returns a closed contour without the points on straight lines between others."""
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    return ring[~np.isclose(before[:, 0] * after[:, 1], before[:, 1] * after[:, 0])]


def _with_keyholes(rings: list[np.ndarray]) -> np.ndarray:
    """Returns the first contour, joined to those within it; always to the nearest next, so that no line crosses one."""
    joined, holes = rings[0], rings[1:]
    while holes:
        distances = [((joined[:, None] - hole) ** 2).sum(axis=2) for hole in holes]
        nearest = int(np.argmin([distance.min() for distance in distances]))
        here, there = np.unravel_index(int(distances[nearest].argmin()), distances[nearest].shape)
        hole = np.roll(holes.pop(nearest), -int(there), axis=0)
        joined = np.concatenate([joined[: here + 1], hole, hole[:1], joined[here:]])
    return joined

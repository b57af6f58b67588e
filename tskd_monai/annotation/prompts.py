"""Boxes and points as viewers send them, checked.

Coordinates are voxel indices `[x, y, z]` of the image, whole numbers at voxel centres, as 3D Slicer and OHIF send them
to MONAI Label: the array axes of a NIfTI volume in their order, and column and row of a 2D image, whose z is 0 or left
out. A request has one structure (`label`, `foreground`, `background`, `roi`, `slice`) or a list of prompts (`prompts`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tskd_monai.files.json_files import is_a, shown

Point = tuple[float, float, float]
FLAT_ROI, SOLID_ROI = 4, 6
"""Numbers of a box: x1 y1 x2 y2, or x1 x2 y1 y2 z1 z2 as for MONAI Label's own promptable model."""


@dataclass(frozen=True)
class Prompt:
    """What a person marked of one structure on one slice.

    Attributes:
        label: label value of the structure.
        box: opposite corners `(x1, y1, z1)` and `(x2, y2, z2)`, last voxel included, on one slice; None: no box.
        foreground: points in the structure.
        background: points outside of it.
    """

    label: int
    box: tuple[Point, Point] | None = None
    foreground: tuple[Point, ...] = ()
    background: tuple[Point, ...] = ()

    @property
    def points(self) -> tuple[Point, ...]:
        """All points, corners of the box first."""
        return (*(self.box or ()), *self.foreground, *self.background)


def read_prompts(request: Mapping[str, Any], labels: Mapping[str, int], shape: Sequence[int]) -> list[Prompt]:
    """Returns the prompts of a request.

    Args:
        request: `{"label": name, "foreground": [[x, y, z]], "background": [...], "roi": [x1, x2, y1, y2, z1, z2] or
            [x1, y1, x2, y2], "slice": z}`, each optional, or `{"prompts": [...]}` with a list of these.
        labels: label value of each structure by name.
        shape: image size along x, y and z.

    Raises:
        ValueError: if there is no prompt, a structure is unknown, a box is empty, or it or a point is outside of the
            image; names what was found.
    """
    listed = request.get("prompts")
    if listed is None:
        return [_read_prompt(request, labels, shape)]
    if not isinstance(listed, list) or not listed or not all(isinstance(one, Mapping) for one in listed):
        raise ValueError(f"Expected a list of objects as `prompts`, found {shown(listed)}.")
    return [_read_prompt(one, labels, shape) for one in listed]


def _read_prompt(request: Mapping[str, Any], labels: Mapping[str, int], shape: Sequence[int]) -> Prompt:
    name: Any = request.get("label")
    if name is None and len(labels) == 1:
        name = next(iter(labels))
    if name not in labels:
        raise ValueError(f"Expected `label` with one of {', '.join(labels)}, found {shown(name)}.")
    z = request.get("slice")
    if z is not None and (not is_a(z, int) or z < 0):
        z = None  # viewers send -1 for the slice of the points
    prompt = Prompt(
        labels[name],
        _read_box(request.get("roi"), z, shape),
        _read_points(request.get("foreground"), z, shape, "foreground"),
        _read_points(request.get("background"), z, shape, "background"),
    )
    if not prompt.points:
        raise ValueError(f"Expected a box (`roi`) or points (`foreground`, `background`) of {name}, found neither.")
    return prompt


def _read_points(listed: Any, z: int | None, shape: Sequence[int], key: str) -> tuple[Point, ...]:
    if not listed:
        return ()
    if not isinstance(listed, list) or not all(_are_numbers(point, (2, 3)) for point in listed):
        raise ValueError(f"Expected a list of points [x, y, z] as `{key}`, found {shown(listed)}.")
    points = tuple(_point(point, z) for point in listed)
    for point in points:
        _check_inside(point, shape, f"the points of `{key}`")
    return points


def _read_box(roi: Any, z: int | None, shape: Sequence[int]) -> tuple[Point, Point] | None:
    if not roi:
        return None
    if not _are_numbers(roi, (FLAT_ROI, SOLID_ROI)):
        raise ValueError(f"Expected a box [x1, x2, y1, y2, z1, z2] or [x1, y1, x2, y2] as `roi`, found {shown(roi)}.")
    if len(roi) == FLAT_ROI:
        x1, y1, x2, y2 = roi
        z1 = z2 = 0 if z is None else z
    else:
        x1, x2, y1, y2, z1, z2 = roi
    low, high = np.array([x1, y1, z1], float), np.array([x2, y2, z2], float)
    if (high < low).any() or np.count_nonzero(high > low) < 2:
        raise ValueError(f"Expected a box that spans more than one voxel along two axes as `roi`, found {shown(roi)}.")
    if (high > low).all():
        middle = float(z if z is not None else np.floor((low[2] + high[2]) / 2))
        low[2] = high[2] = middle
    corners = _point(low.tolist(), None), _point(high.tolist(), None)
    for corner in corners:
        _check_inside(corner, shape, "a box")
    return corners


def _point(numbers: Sequence[float], z: int | None) -> Point:
    x, y, *rest = (float(number) for number in numbers)
    return x, y, rest[0] if rest else float(z or 0)


def _check_inside(point: Point, shape: Sequence[int], what: str) -> None:
    if any(not -0.5 <= value <= size - 0.5 for value, size in zip(point, shape, strict=True)):
        size = " x ".join(map(str, shape))
        raise ValueError(f"Expected {what} within the image of {size} voxels, found {list(point)}.")


def _are_numbers(found: Any, lengths: Sequence[int]) -> bool:
    return (
        isinstance(found, (list, tuple))
        and len(found) in lengths
        and all(is_a(number, float) and np.isfinite(number) for number in found)
    )

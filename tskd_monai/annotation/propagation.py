"""Propagation of a structure's mask from slice to slice, by boxes of the last mask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tskd_monai.distillation.refiner import component_box
from tskd_monai.files.json_files import is_a

Box = tuple[float, float, float, float]
"""x1 y1 x2 y2 at pixel edges: the box of the whole slice is 0, 0, W, H."""
Segment = Callable[[int, Box], np.ndarray]
"""Returns the logits (H, W) of what a box on a slice marks."""


@dataclass(frozen=True)
class PropagationSettings:
    """When propagation ends.

    Attributes:
        margin: by how much the box of the last mask is widened on each side, as a fraction of its width or height.
        min_iou: smallest IoU of two consecutive masks.
        max_area_ratio: largest ratio of their areas, of the larger to the smaller.
        min_area: smallest area of a mask, pixels of the image.
        max_slices: largest number of slices from the one that was marked; 0: no propagation.

    Raises:
        ValueError: if a value is out of range; names the field.
    """

    margin: float = 0.05
    min_iou: float = 0.5
    max_area_ratio: float = 2.0
    min_area: int = 16
    max_slices: int = 20

    def __post_init__(self) -> None:
        for name, low, high in (("margin", 0, 1), ("min_iou", 0, 1), ("max_area_ratio", 1, np.inf)):
            value = getattr(self, name)
            if not is_a(value, float) or not low <= value <= high:
                raise ValueError(f"Expected {name} from {low} to {high}, found {value!r}.")
        for name, low in (("min_area", 1), ("max_slices", 0)):
            value = getattr(self, name)
            if not is_a(value, int) or value < low:
                raise ValueError(f"Expected {name} of at least {low}, found {value!r}.")


def propagate(
    start: np.ndarray, slices: Sequence[int], segment: Segment, settings: PropagationSettings
) -> dict[int, np.ndarray]:
    """Returns the logits of a structure on the slices that follow one where it was marked.

    Args:
        start: logits on the marked slice (H, W).
        slices: indices of the slices that follow in one direction, the nearest first.
        segment: segments a slice within a box.
        settings: when to stop.

    Returns:
        Logits by slice, up to the last slice that agrees with the one before.
    """
    found: dict[int, np.ndarray] = {}
    last = start > 0
    for index in slices[: settings.max_slices]:
        box = component_box(last, settings.margin, settings.min_area)
        if box is None:
            break
        logits = segment(index, box)
        mask = logits > 0
        if not agree(last, mask, settings):
            break
        found[index], last = logits, mask
    return found


def agree(first: np.ndarray, second: np.ndarray, settings: PropagationSettings) -> bool:
    """Returns whether two consecutive masks are of the same structure: alike in place and in area."""
    areas = sorted((int(first.sum()), int(second.sum())))
    if areas[0] < settings.min_area or areas[1] > settings.max_area_ratio * areas[0]:
        return False
    return bool((first & second).sum() >= settings.min_iou * (first | second).sum())


def reach(marked: Sequence[int], depth: int) -> dict[int, tuple[list[int], list[int]]]:
    """Returns the slices that each marked slice may propagate to: those nearer to it than to any other marked one.

    Args:
        marked: indices of the marked slices of a structure.
        depth: number of slices.

    Returns:
        For each marked slice, the slices below and those above it, the nearest first.
    """
    ordered = sorted(set(marked))
    bounds = [-1, *((low + high) // 2 for low, high in zip(ordered, ordered[1:], strict=False)), depth - 1]
    return {
        index: (list(range(index - 1, low, -1)), list(range(index + 1, high + 1)))
        for index, low, high in zip(ordered, bounds, bounds[1:], strict=False)
    }

"""Disagreement of the network with itself: some slices are segmented a second time, smaller and shifted.

The view is one that the training augmentation shows too. Mirrored slices are not: left and right differ in a patient,
and no student is trained on them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

ZOOM, SHIFT = 0.92, 0.03
"""Size of the image in the view, and its shift as a fraction of the window's sides."""
EVERY, MOST_SLICES = 4, 32
"""One slice in four is seen twice, at most 32 of a volume: the cost of the view."""


def view_slices(number: int) -> Tensor:
    """Returns the indices of the slices that are segmented twice, evenly spaced, (n,) int64.

    Args:
        number: slices of the image.
    """
    chosen = min(-(-number // EVERY), MOST_SLICES)
    return ((torch.arange(chosen) + 0.5) * number / chosen).floor().long()


def view_of(slices: Tensor, window: tuple[int, int], mode: str = "bilinear") -> Tensor:
    """Returns slices in the view, (B, C, h, w); outside of the slice it is 0.

    Args:
        slices: (B, C, H, W), smaller or larger than the window; a larger one is made to fit.
        window: rows and columns (h, w) of the network's input.
        mode: interpolation.
    """
    zoom = ZOOM * min(1.0, *(side / size for side, size in zip(window, slices.shape[-2:], strict=True)))
    rows, columns = (side / size / zoom for side, size in zip(window, slices.shape[-2:], strict=True))
    theta = torch.tensor([[columns, 0.0, SHIFT * columns], [0.0, rows, -SHIFT * rows]], device=slices.device)
    grid = F.affine_grid(theta.expand(len(slices), 2, 3), [len(slices), 1, *window], align_corners=False)
    return F.grid_sample(slices.float(), grid, mode=mode, align_corners=False)


def agreement(labels: Tensor, seen: Tensor, classes: int) -> list[float | None]:
    """Returns the Dice between two segmentations for each class, background included; None where neither has it.

    Args:
        labels: classes (B, H, W).
        seen: classes (B, H, W).
        classes: number of classes.
    """
    pairs = torch.bincount((labels.long() * classes + seen.long()).flatten(), minlength=classes**2)
    table = pairs.reshape(classes, classes).double()
    sizes = table.sum(dim=0) + table.sum(dim=1)
    return [float(2 * table[k, k] / sizes[k]) if sizes[k] else None for k in range(classes)]

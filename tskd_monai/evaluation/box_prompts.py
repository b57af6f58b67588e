"""What a promptable model makes of boxes around the structures of labelled slices.

Every structure of a slice is prompted with the box around its reference, whose sides are shifted at random, as no
reader's box is exact. The Dice shows how well the model outlines what it is pointed at, not how well it finds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from tskd_monai.networks.promptable import PromptableSegmenter


class StructureDice(NamedTuple):
    """Dice of one structure of a case.

    Attributes:
        label: class index of the structure.
        slices: number of slices that show it.
        dice: Dice over the pixels of these slices together.
    """

    label: int
    slices: int
    dice: float


def box_prompted_dice(
    model: PromptableSegmenter,
    images: Sequence[Tensor],
    labels: Sequence[Tensor],
    *,
    jitter: float = 3.0,
    generator: torch.Generator | None = None,
) -> list[StructureDice]:
    """Returns the Dice of each structure on the slices of one case.

    Args:
        model: promptable model at the images' size.
        images: slices ``(C, H, W)`` in [0, 1].
        labels: their class indices ``(1, H, W)``, 0 for the background.
        jitter: each side of a box is shifted by up to this many pixels, outwards or inwards.
        generator: random numbers of the shifts.
    """
    overlap: dict[int, list[int]] = {}
    for image, label in zip(images, labels, strict=True):
        classes, boxes = structure_boxes(label[0], jitter, generator)
        if not classes:
            continue
        with torch.inference_mode():
            masks = model.masks(model.embed(image[None])[0], boxes) > 0
        for index, mask in zip(classes, masks.cpu(), strict=True):
            reference = label[0] == index
            counts = overlap.setdefault(index, [0, 0, 0])
            counts[0] += 1
            counts[1] += 2 * int((mask & reference).sum())
            counts[2] += int(mask.sum() + reference.sum())
    return [StructureDice(index, n, both / total) for index, (n, both, total) in sorted(overlap.items())]


def structure_boxes(label: Tensor, jitter: float, generator: torch.Generator | None = None) -> tuple[list[int], Tensor]:
    """Returns the classes on a slice, and a shifted box around each, in pixels.

    Args:
        label: class indices ``(H, W)``, 0 for the background.
        jitter: largest shift of a side in pixels; a side never crosses the one opposite.
        generator: random numbers of the shifts.

    Returns:
        Class indices, and boxes ``(N, 4)`` as ``x1 y1 x2 y2`` within the image, the last pixel included.
    """
    height, width = label.shape
    classes = [int(index) for index in label.unique() if index > 0]
    boxes = torch.zeros(len(classes), 4)
    for box, index in zip(boxes, classes, strict=True):
        rows, columns = torch.nonzero(label == index, as_tuple=True)
        exact = torch.stack([columns.min(), rows.min(), columns.max(), rows.max()]).float()
        shifted = exact + jitter * (2 * torch.rand(4, generator=generator) - 1)
        middle = (exact[:2] + exact[2:]) / 2
        box[:2] = torch.minimum(shifted[:2], middle).clamp(min=0)
        box[2:] = torch.minimum(torch.maximum(shifted[2:], middle), torch.tensor([width - 1.0, height - 1.0]))
    return classes, boxes


def evenly_spaced(count: int, wanted: int) -> list[int]:
    """Returns up to ``wanted`` indices of ``count``, spread evenly."""
    if wanted >= count:
        return list(range(count))
    return [(2 * index + 1) * count // (2 * wanted) for index in range(wanted)]

"""Boxes around structures, and the Dice of what a model makes of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tskd_monai.evaluation.box_prompts import StructureDice, box_prompted_dice, evenly_spaced, structure_boxes


class BoxFiller:
    """A model whose mask is the box, so that a box-shaped structure is found exactly."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size

    def embed(self, images: Tensor) -> Tensor:
        return images

    def masks(self, embedding: Tensor, boxes: Tensor) -> Tensor:
        masks = torch.full((len(boxes), *self.size), -1.0)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.round().int().tolist(), strict=True):
            mask[y1 : y2 + 1, x1 : x2 + 1] = 1
        return masks


def labels() -> Tensor:
    label = torch.zeros(1, 40, 60)
    label[0, 10:20, 5:25] = 1
    label[0, 25:36, 30:60] = 2
    return label


def test_boxes_without_jitter_are_exact():
    classes, boxes = structure_boxes(labels()[0], 0)
    assert classes == [1, 2]
    assert boxes.tolist() == [[5, 10, 24, 19], [30, 25, 59, 35]]


def test_boxes_with_jitter_stay_within_the_image_and_follow_the_seed():
    draws = [structure_boxes(labels()[0], 3, torch.Generator().manual_seed(seed))[1] for seed in (*range(50), 0)]
    assert torch.equal(draws[0], draws[-1])
    shifts = torch.stack(draws) - torch.tensor([[5.0, 10, 24, 19], [30, 25, 59, 35]])
    assert shifts.abs().max() <= 3
    assert shifts[:, 0].abs().mean() == pytest.approx(1.5, abs=0.2)
    assert shifts[:, 1, 2].max() == 0  # the right side lies at the border


def test_sides_of_a_single_pixel_never_cross():
    label = torch.zeros(20, 20)
    label[7, 9] = 1
    for seed in range(20):
        _, boxes = structure_boxes(label, 5, torch.Generator().manual_seed(seed))
        assert (boxes[0, :2] <= torch.tensor([9, 7])).all()
        assert (boxes[0, 2:] >= torch.tensor([9, 7])).all()


def test_dice_is_that_of_the_pixels_of_all_slices_together():
    disc = labels()
    disc[0, 10:15, 5:25] = 0
    disc[0, 10, 5:25] = 1  # a hollow structure in the same box: 120 of its 200 pixels
    empty = torch.zeros(1, 40, 60)
    found = box_prompted_dice(BoxFiller((40, 60)), [torch.rand(1, 40, 60)] * 3, [labels(), disc, empty], jitter=0)
    assert found == [
        StructureDice(1, 2, pytest.approx(2 * (200 + 120) / (200 + 200 + 200 + 120))),
        StructureDice(2, 2, 1.0),
    ]


@pytest.mark.parametrize(("count", "wanted", "expected"), [(3, 5, [0, 1, 2]), (9, 3, [1, 4, 7]), (10, 1, [5])])
def test_slices_are_spread_evenly(count, wanted, expected):
    assert evenly_spaced(count, wanted) == expected

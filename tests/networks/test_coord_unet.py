"""A U-Net with coordinates tells apart what looks the same in two places, and takes whole slices only."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tskd_monai.data.task import Task
from tskd_monai.inference.label_map_inferer import LabelMapInferer
from tskd_monai.networks.coord_unet import WithCoordinates
from tskd_monai.networks.students import build_student
from tskd_monai.training.validation import slice_inferer

NAME = "coord_unet_small"


def test_coordinates_run_from_minus_one_to_one_over_rows_and_columns() -> None:
    images = torch.rand(2, 1, 3, 5)
    found = WithCoordinates()(images)
    assert torch.equal(found[:, :1], images)
    assert torch.allclose(found[0, 1, :, 0], torch.tensor([-1.0, 0.0, 1.0]))
    assert torch.allclose(found[1, 2, 0], torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0]))


def test_two_like_blobs_far_from_the_border_are_told_apart_only_with_coordinates() -> None:
    images = torch.zeros(1, 1, 256, 256)
    for column in (96, 160):  # a multiple of the stride apart: the same pattern for the network
        images[..., 120:136, column - 8 : column + 8] = 1
    differences = {}
    for name in ("compact_unet_small", NAME):
        torch.manual_seed(0)
        network = build_student(name, 1, 3, (256, 256)).eval()
        with torch.inference_mode():
            logits = network(images)
        left, right = logits[..., 120:136, 88:104], logits[..., 120:136, 152:168]
        differences[name] = float((left - right).abs().max())
    assert differences[NAME] > 100 * differences["compact_unet_small"]


def test_a_part_of_a_slice_is_refused(make_task: Callable[..., Task]) -> None:
    task = make_task()
    network = build_student(NAME, task.channels, task.num_classes, task.image_size).eval()
    height, width = task.image_size
    whole, larger = torch.zeros(1, 1, height, width, 2), torch.zeros(1, 1, height + 1, width, 2)
    assert slice_inferer(task)(whole, network).shape == (1, task.num_classes, height, width, 2)
    expected = f"at most {height} x {width} pixels .* whole slices only, found {height + 1} x {width}"
    for inferer in (slice_inferer(task), LabelMapInferer(task)):
        with pytest.raises(ValueError, match=expected):
            inferer(larger, network)

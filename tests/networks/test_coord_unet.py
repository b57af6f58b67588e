"""A U-Net with coordinates tells apart what looks the same in two places, and takes whole slices only."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tskd_monai.data.task import Task
from tskd_monai.inference.label_map_inferer import LabelMapInferer
from tskd_monai.networks.coord_unet import CoordUNet, WithCoordinates
from tskd_monai.networks.students import build_student
from tskd_monai.training.validation import slice_inferer

NAME = "coord_unet_small"


def test_coordinates_run_from_minus_one_to_one_over_rows_and_columns() -> None:
    images = torch.rand(2, 1, 3, 5)
    found = WithCoordinates((3, 5))(images)
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


class Recorder:
    """Stands for a network that must see whole images; keeps the sizes of what it is given."""

    def __init__(self, network: CoordUNet, classes: int) -> None:
        self.whole_size = network.whole_size
        self.classes = classes
        self.sizes: set[tuple[int, ...]] = set()

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        self.sizes.add(tuple(images.shape[-2:]))
        return images.new_zeros(len(images), self.classes, *images.shape[-2:])


def test_coordinates_go_on_outside_of_the_trained_image_size() -> None:
    inner = WithCoordinates((4, 6))(torch.zeros(1, 1, 4, 6))
    larger = WithCoordinates((4, 6))(torch.zeros(1, 1, 8, 10))
    assert torch.allclose(larger[:, 1:, 2:6, 2:8], inner[:, 1:])
    assert float(larger[0, 1].max()) == pytest.approx(7 / 3)


def test_larger_slices_are_given_whole(make_task: Callable[..., Task]) -> None:
    task = make_task()
    height, width = task.image_size
    network = build_student(NAME, task.channels, task.num_classes, task.image_size)
    assert isinstance(network, CoordUNet)
    assert network.whole_size((height + 1, 3)) == (height + 16, width)
    inferer = slice_inferer(task)
    for size, expected in (((height + 1, width), (height + 16, width)), ((height, width), (height, width))):
        recorder = Recorder(network, task.num_classes)
        assert inferer(torch.zeros(1, 1, *size, 2), recorder).shape == (1, task.num_classes, *size, 2)
        assert recorder.sizes == {expected}
    recorder, window = Recorder(network, task.num_classes), (height + 16, width)
    slices = torch.zeros(2, 1, height + 1, width)
    assert LabelMapInferer(task)._logits(slices, recorder, window).shape == (2, task.num_classes, height + 1, width)
    assert recorder.sizes == {window}

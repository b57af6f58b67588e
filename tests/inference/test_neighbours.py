"""What a network of neighbouring slices is given of a volume: regular grids only, whatever the series was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.inference.phantom_scan import SHAPE, SPACING, dicom
from tskd_monai.data.task import Task
from tskd_monai.inference.label_map_inferer import LabelMapInferer
from tskd_monai.transforms.pipelines import preprocessing

MISSING = 8


class Seen(torch.nn.Module):
    """Records its input; finds background."""

    def __init__(self) -> None:
        super().__init__()
        self.windows: list[torch.Tensor] = []

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """Returns logits (B, 3, H, W)."""
        self.windows.append(windows)
        return torch.zeros(len(windows), 3, *windows.shape[-2:])


@pytest.fixture
def task(make_task: Callable[..., Task]) -> Task:
    return make_task(image_size=(32, 32), pixdim=SPACING[:2], neighbours=2)


def seen(volume: Any, task: Task) -> torch.Tensor:
    """Returns the windows (D, 5, 32, 32) that the network is given of a volume (1, H, W, D)."""
    network = Seen()
    LabelMapInferer(task, sw_batch_size=3, neighbours=task.neighbours)(volume[None], network)
    return torch.cat(network.windows)


def test_each_slice_has_the_two_before_and_the_two_behind(tmp_path: Path, task: Task) -> None:
    volume = preprocessing(task)({"image": str(dicom(tmp_path).path)})["image"]
    windows = seen(volume, task)
    depth = SHAPE[2]
    assert windows.shape == (depth, 5, 32, 32) and volume.shape[-1] == depth
    for index in range(depth):
        for channel, offset in enumerate(range(-2, 3)):
            other = min(max(index + offset, 0), depth - 1)
            assert torch.equal(windows[index, channel], windows[other, 2]), (index, offset)
    assert not torch.equal(windows[5, 1], windows[5, 2])


def test_a_missing_slice_is_refused_or_interpolated_never_skipped(tmp_path: Path, task: Task) -> None:
    whole = preprocessing(task)({"image": str(dicom(tmp_path / "whole").path)})["image"]
    series = dicom(tmp_path / "part").path
    (series / f"MR{MISSING:04d}.dcm").unlink()
    with pytest.raises(RuntimeError) as raised:
        preprocessing(task)({"image": str(series)})
    assert "missing or uneven at" in str(raised.value.__cause__)
    resampled = preprocessing(task, irregular="resample")({"image": str(series)})["image"]
    assert resampled.shape == whole.shape
    differs = [index for index in range(SHAPE[2]) if not torch.allclose(resampled[..., index], whole[..., index])]
    assert len(differs) == 1  # the interpolated slice has its place among the others
    between = (resampled[..., differs[0] - 1] + resampled[..., differs[0] + 1]) / 2
    torch.testing.assert_close(resampled[..., differs[0]], between, atol=2e-3, rtol=0)
    windows = seen(resampled, task)
    assert torch.equal(windows[differs[0] - 1, 3], windows[differs[0], 2])
    assert torch.equal(windows[differs[0] + 1, 1], windows[differs[0], 2])

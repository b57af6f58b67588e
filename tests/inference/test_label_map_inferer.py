from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.networks.nets import UNet

from tskd_monai.data.task import Label, Task
from tskd_monai.inference.label_map_inferer import UPSAMPLING, LabelMapInferer
from tskd_monai.training.validation import slice_inferer

MakeTask = Callable[..., Task]


def volume(*shape: int) -> MetaTensor:
    """Returns a random image (1, 1, H, W, D) that preprocessing left unchanged."""
    meta = {"original_affine": np.eye(4), "spatial_shape": np.array(shape)}
    values = torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(0))
    return MetaTensor(values, affine=np.eye(4), meta=meta)


@pytest.fixture
def network() -> UNet:
    torch.manual_seed(0)
    return UNet(2, 1, 3, channels=(4, 8), strides=(2,)).eval()


@torch.no_grad()
@pytest.mark.parametrize("shape", [(32, 48, 5), (27, 41, 5), (40, 60, 5), (20, 70, 3)])
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_classes_are_those_of_the_logits_over_the_volume(
    make_task: MakeTask, network: UNet, shape: tuple[int, ...], batch: int
) -> None:
    image = volume(*shape)
    logits = slice_inferer(make_task())(image.as_tensor(), network)
    expected = torch.tensor([0, 1, 4])[logits.argmax(dim=1)]
    found = LabelMapInferer(make_task(), sw_batch_size=batch)(image, network)
    assert found.dtype == torch.uint8 and found.shape == (1, 1, *shape)
    assert (found[0].as_tensor() != expected).float().mean() < 1e-3  # float32 decides ties


@torch.no_grad()
def test_the_engine_runs_the_network(make_task: MakeTask, network: UNet) -> None:
    asked = []

    def engine(given: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
        asked.append(given)
        return lambda windows: torch.stack([windows[:, 0] * 0, windows[:, 0] * 0, windows[:, 0] + 1], dim=1)

    assert LabelMapInferer(make_task(), engine=engine)(volume(32, 48, 3), network).unique().tolist() == [4]
    assert asked == [network]


@torch.no_grad()
def test_logits_become_labels_on_the_given_device(
    make_task: MakeTask, network: UNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []

    def labels(logits: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        found.extend(tensor.device.type for tensor in (logits, rows, columns))
        return torch.zeros(len(logits), len(rows), len(columns), dtype=values.dtype)

    monkeypatch.setitem(UPSAMPLING, "linear", labels)
    for device in ("meta", None):
        LabelMapInferer(make_task(), device=device)(volume(32, 48, 3), network)
    assert found == ["meta"] * 3 + ["cpu"] * 3


def test_values_beyond_a_byte_fit(make_task: MakeTask) -> None:
    task = make_task(labels=(Label(0, "background"), Label(300, "liver")))
    found = LabelMapInferer(task)(volume(32, 48, 2), lambda windows: torch.cat([windows, windows + 1], dim=1))
    assert found.dtype == torch.int32 and found.unique().tolist() == [300]


def test_several_images_and_unknown_upsampling_are_refused(make_task: MakeTask, network: UNet) -> None:
    with pytest.raises(ValueError, match="one image at a time, found 2; set batch_size"):
        LabelMapInferer(make_task())(torch.zeros(2, 1, 32, 48, 2), network)
    with pytest.raises(ValueError, match="--upsampling linear or nearest, found cubic"):
        LabelMapInferer(make_task(), upsampling="cubic")

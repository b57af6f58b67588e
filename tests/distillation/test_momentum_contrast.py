"""Momentum contrast: queries, keys, and the momentum encoder that follows."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine
from torch import Tensor

from tskd_monai.distillation.momentum_contrast import MomentumContrast, MomentumUpdate, momentum_contrast
from tskd_monai.losses.info_nce import SymmetricInfoNCELoss
from tskd_monai.networks.students import build_student

SIZE = (32, 48)
NAMES = ("compact_unet_small", "planned_unet", "vit_tiny")


def contrast(name: str) -> MomentumContrast:
    torch.manual_seed(0)
    return momentum_contrast(build_student(name, 1, 3, SIZE), name)


def followers(network: MomentumContrast) -> list[Tensor]:
    return [parameter.clone() for parameter in network.momentum_encoder.parameters()]


@pytest.mark.parametrize("name", NAMES)
def test_shapes(name: str) -> None:
    outputs = contrast(name)(torch.rand(3, 2, 1, *SIZE))
    assert outputs["queries"].shape == outputs["keys"].shape == (3, 2, 128)


@pytest.mark.parametrize("name", NAMES)
def test_the_encoder_learns_and_the_momentum_encoder_gets_no_gradient(name: str) -> None:
    network = contrast(name)
    SymmetricInfoNCELoss()(network(torch.rand(3, 2, 1, *SIZE))).backward()
    learning = {key: value for key, value in network.named_parameters() if value.requires_grad}
    assert [key for key, value in learning.items() if value.grad is None] == []
    assert all(value.grad is None and not value.requires_grad for value in network.momentum_encoder.parameters())


def test_the_patch_projection_of_a_vit_is_frozen() -> None:
    names = {key for key, value in contrast("vit_tiny").network.named_parameters() if not value.requires_grad}
    outside = {key for key in names if not key.startswith("decoder.")}
    assert outside == {"encoder.backbone.patch_embed.proj.weight", "encoder.backbone.patch_embed.proj.bias"}


def test_momentum_1_leaves_the_momentum_encoder_and_0_copies_the_encoder() -> None:
    network = contrast("compact_unet_small")
    for parameter in network.encoder.parameters():
        parameter.data += 1
    before = followers(network)
    network.update_momentum_encoder(1.0)
    assert all(torch.equal(old, new) for old, new in zip(before, followers(network), strict=True))
    network.update_momentum_encoder(0.75)
    for old, new in zip(before, followers(network), strict=True):
        torch.testing.assert_close(new, old + 0.25)
    network.update_momentum_encoder(0.0)
    assert all(torch.equal(a, b) for a, b in zip(network.encoder.parameters(), followers(network), strict=True))


def test_each_views_query_and_key_are_at_its_index() -> None:
    network, views = contrast("compact_unet_small").eval(), torch.rand(3, 2, 1, *SIZE)
    with torch.no_grad():
        outputs, swapped = network(views), network(views.flip(1))
    torch.testing.assert_close(outputs["keys"], swapped["keys"].flip(1))
    torch.testing.assert_close(outputs["queries"], swapped["queries"].flip(1))


class Noting(MomentumContrast):
    """Records the momentum of each update."""

    def __init__(self) -> None:
        self.momenta: list[float] = []

    def update_momentum_encoder(self, momentum: float) -> None:
        self.momenta.append(momentum)


def test_the_momentum_rises_from_its_start_to_1_once_a_step() -> None:
    network, engine = Noting(), Engine(lambda engine, batch: None)
    update = MomentumUpdate(network, steps=10, start=0.9)
    update.attach(engine)
    engine.run(range(5), max_epochs=2)
    assert len(network.momenta) == 10 and network.momenta == sorted(network.momenta)
    assert network.momenta[0] == pytest.approx(0.9) and network.momenta[5] == pytest.approx(0.95)
    assert update.momentum(11) == 1


def test_a_start_above_1_is_refused() -> None:
    with pytest.raises(ValueError, match="--momentum from 0 to 1, found 1.5"):
        MomentumUpdate(Noting(), steps=10, start=1.5)

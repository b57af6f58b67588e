"""Running layers with and without recomputation."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tskd_monai.networks.encoders import run_layers


@pytest.mark.parametrize("recompute", [False, True])
def test_the_asked_depths_and_the_last_output_are_returned(recompute):
    layers = [nn.Linear(3, 3) for _ in range(4)]
    start = torch.rand(2, 3)
    last, kept = run_layers(layers, start, (0, 2), recompute=recompute)
    assert torch.equal(last, nn.Sequential(*layers)(start))
    assert [tuple(entry.shape) for entry in kept] == [(2, 3), (2, 3)]
    assert torch.equal(kept[0], layers[0](start))
    assert torch.equal(kept[1], nn.Sequential(*layers[:3])(start))


def kept_for_backward(recompute: bool) -> int:
    layers = [nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8), nn.GELU()) for _ in range(5)]
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
        run_layers(layers, torch.rand(64, 8), (), recompute=recompute)
    return sum(sizes)


def test_recomputing_keeps_less_for_the_backward_pass():
    assert kept_for_backward(recompute=True) < kept_for_backward(recompute=False) / 3


def test_layers_that_change_the_shape_fail_as_they_are():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        run_layers([nn.Linear(3, 4), nn.Linear(3, 3)], torch.rand(2, 3), (), recompute=False)

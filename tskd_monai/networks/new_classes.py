"""Weights of a segmentation network for a task with more classes: what is known stays, a new class is background first.

Only the layers whose channels are the classes change. Each new channel is a copy of the background's, and enters no
other one. At the last layer the logits of background and new classes are lowered by log(1 + n) for n new classes, so
that together they have the probability that the background had, and every known class keeps its own.

Source: the initialisation of Cermelli et al., Modeling the background for incremental learning in semantic
segmentation, CVPR 2020.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn


def with_new_classes(network: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns weights for a network, from those of the same network with fewer classes.

    Args:
        network: network with all classes, in the order of the known ones, new ones last.
        weights: state dict of the network with the known classes.

    Raises:
        ValueError: when the weights are those of another network.
    """
    wanted = network.state_dict()
    if set(wanted) != set(weights):
        other = sorted(set(wanted) ^ set(weights))
        raise ValueError(f"Expected weights of the same network with fewer classes, found another {other[0]}.")
    extended = {name: _extended(network, name, weights[name], tensor.shape) for name, tensor in wanted.items()}
    changed = [name for name in wanted if extended[name].shape != weights[name].shape]
    if not changed or not changed[-1].endswith(".bias"):
        raise ValueError("Expected a network that ends in a layer with a bias for each class, found another one.")
    bias, known = extended[changed[-1]], len(weights[changed[-1]])
    shift = math.log(1 + len(bias) - known)
    bias[0] -= shift
    bias[known:] -= shift
    return extended


def _extended(network: nn.Module, name: str, weight: Tensor, shape: torch.Size) -> Tensor:
    if weight.dim() != len(shape) or any(old > new for old, new in zip(weight.shape, shape, strict=True)):
        raise ValueError(
            f"Expected weights of the same network with fewer classes, found {name} of {tuple(weight.shape)}, here "
            f"{tuple(shape)}."
        )
    layer = network.get_submodule(name.rpartition(".")[0])
    out = 1 if isinstance(layer, nn.modules.conv._ConvTransposeNd) and weight.dim() > 1 else 0
    for axis in (axis for axis in range(weight.dim()) if weight.shape[axis] != shape[axis]):
        background = weight.narrow(axis, 0, 1)
        added = background if axis == out else torch.zeros_like(background)
        weight = torch.cat([weight, *[added] * (shape[axis] - weight.shape[axis])], dim=axis)
    return weight.clone()

"""Group normalisation in operations that an exported graph runs fast.

OpenVINO turns a GroupNorm into one over reshaped maps and changes their layout there and back: a third of the time of
the ViT student in fp32.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class ChannelwiseGroupNorm(nn.Module):
    """What a GroupNorm computes, from the mean and variance of each channel.

    Args:
        norm: whose groups, weights and epsilon it takes; it has weights.
    """

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.groups, self.eps = norm.num_groups, norm.eps
        self.weight, self.bias = norm.weight, norm.bias

    def forward(self, maps: Tensor) -> Tensor:
        """Maps ``(B, C, H, W)`` to the same shape."""
        means = maps.mean((2, 3))
        variances = (maps - means[..., None, None]).square().mean((2, 3))
        means_in_group = means.unflatten(1, (self.groups, -1))
        mean = means_in_group.mean(2, keepdim=True)
        # Of equally large parts: the mean of their variances and the variance of their means.
        variance = (variances.view_as(means_in_group) + (means_in_group - mean).square()).mean(2, keepdim=True)
        scale = self.weight * torch.rsqrt(variance + self.eps).expand_as(means_in_group).flatten(1)
        shift = self.bias - mean.expand_as(means_in_group).flatten(1) * scale
        return maps * scale[..., None, None] + shift[..., None, None]


def with_channelwise_norms(network: nn.Module) -> nn.Module:
    """Returns a copy of a network in which every GroupNorm is written out."""
    network = copy.deepcopy(network)
    norms = [(name, module) for name, module in network.named_modules() if isinstance(module, nn.GroupNorm)]
    for name, norm in norms:
        network.set_submodule(name, ChannelwiseGroupNorm(norm))
    return network

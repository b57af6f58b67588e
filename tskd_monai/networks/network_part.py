"""A part of a network that is trained on its own."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn


class NetworkPart(NamedTuple):
    """Layers of a network, the weights shared with it.

    Attributes:
        module: images (B, C, H, W) to features (B, channels, h, w).
        channels: of the features.
    """

    module: nn.Module
    channels: int


def train_alone(network: nn.Module, part: nn.Module) -> None:
    """Lets a part of a network learn and freezes the rest, which gets no gradient from the part's loss."""
    network.requires_grad_(False)
    part.requires_grad_(True)

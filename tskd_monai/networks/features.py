"""Parts of a network: the output of one layer, its projection to teacher features, and layers to train separately."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn


class LayerFeatures(nn.Module):
    """A network that also returns the output of one of its layers.

    Args:
        network: images (B, C, H, W) to logits (B, K, H, W).
        layer: name of the layer whose output (B, F, h, w) is taken, as in `network.named_modules()`.

    Raises:
        ValueError: when the network has no such layer.
    """

    def __init__(self, network: nn.Module, layer: str) -> None:
        super().__init__()
        layers = dict(network.named_modules(remove_duplicate=False))  # MONAI's DynUNet holds each layer twice
        if layer not in layers:
            raise ValueError(
                f"Expected a layer of {type(network).__name__}, found {layer}; it has {sorted(layers)[1:]}."
            )
        self.network = network
        self._features: torch.Tensor | None = None
        layers[layer].register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        self._features = output

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns logits (B, K, H, W) and features (B, F, h, w) of images (B, C, H, W)."""
        logits = self.network(images)
        features, self._features = self._features, None
        if features is None:
            raise RuntimeError("Expected the feature layer to run in the network's forward pass; it did not.")
        return logits, features


class FeatureProjection(nn.Module):
    """A student that also returns the features of one of its layers, through a learned 1x1 projection.

    Only training uses this module: the student's weights are shared, and the projection is discarded afterwards.

    Args:
        network: the student, images (B, C, H, W) to logits (B, K, H, W).
        layer: name of the layer whose output (B, F, h, w) is taken, as in `network.named_modules()`.
        feature_channels: channels F of that output.
        teacher_channels: channels of the teacher's features.

    Raises:
        ValueError: when the network has no such layer.
    """

    def __init__(self, network: nn.Module, layer: str, feature_channels: int, teacher_channels: int) -> None:
        super().__init__()
        self.student = LayerFeatures(network, layer)
        self.projection = nn.Conv2d(feature_channels, teacher_channels, kernel_size=1)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Returns `logits` (B, K, H, W) and `features` (B, E, h, w) of images (B, C, H, W)."""
        logits, features = self.student(images)
        return {"logits": logits, "features": self.projection(features)}


class NetworkPart(NamedTuple):
    """Layers of a network, which share its weights.

    Attributes:
        module: maps images (B, C, H, W) to features (B, channels, h, w).
        channels: channels of the features.
    """

    module: nn.Module
    channels: int


def train_only(network: nn.Module, part: nn.Module) -> None:
    """Makes a part of a network trainable and freezes the rest, which receives no gradient from the part's loss."""
    network.requires_grad_(False)
    part.requires_grad_(True)

"""Features from inside a network, and their projection to a teacher's."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn


class LayerFeatures(nn.Module):
    """A network that also gives the output of one of its layers.

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
    """A student that also gives the features of one of its layers, through a learned 1x1 projection.

    Training goes through this module, deployment through the student alone: its weights are shared, the projection
    is thrown away.

    Args:
        network: the student, images (B, C, H, W) to logits (B, K, H, W).
        layer: name of the layer whose output (B, F, h, w) is taken, as in `network.named_modules()`.
        feature_channels: F.
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


class TeacherNetwork(Protocol):
    """A frozen network that a student learns from.

    Attributes:
        embed_dim: channels of its features.
    """

    embed_dim: int

    def forward_with_embeddings(self, images: Tensor) -> tuple[Tensor | None, Tensor]:
        """Returns logits (B, K, H, W), or None where it gives no classes, and features (B, E, h, w)."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Returns its weights."""
        ...


class SegmentationNetworkTeacher(nn.Module):
    """A segmentation network of any kind as a teacher: its logits, and the output of one layer as features.

    Args:
        network: images (B, C, H, W) to logits (B, K, H, W).
        layer: name of the layer whose output is taken.
        feature_channels: of that layer's output.
    """

    def __init__(self, network: nn.Module, layer: str, feature_channels: int) -> None:
        super().__init__()
        self.tapped = LayerFeatures(network, layer)
        self.embed_dim = feature_channels

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits (B, K, H, W)."""
        return self.forward_with_embeddings(images)[0]

    def forward_with_embeddings(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Returns logits (B, K, H, W) and features (B, E, h, w)."""
        logits, features = self.tapped(images)
        return logits, features


def state_sha256(network: TeacherNetwork) -> str:
    """Returns the sha256 of a network's weights and buffers, names included."""
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def teacher_sha256(teacher: TeacherNetwork) -> str:
    """Returns the sha256 that identifies a teacher: of its weights as they were saved.

    Merging LoRA rounds, and not alike on every processor; what was computed with a teacher stays valid on another.
    """
    return getattr(teacher, "saved_sha256", None) or state_sha256(teacher)

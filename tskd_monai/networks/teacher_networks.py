"""What distillation needs of a teacher, and small networks in that role: a trained student, as a control."""

from __future__ import annotations

import hashlib
from typing import Protocol

import torch
from torch import Tensor, nn

from tskd_monai.networks.features import LayerFeatures


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

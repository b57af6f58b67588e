"""What distillation needs of a teacher, and small networks in that role: a trained student, as a control."""

from __future__ import annotations

from typing import Protocol

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

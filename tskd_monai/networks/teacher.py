"""Teacher networks: their interface, the tuned foundation model, and any segmentation network as a teacher.

Teachers are built in `teacher_builder`, and saved and loaded in `teacher_folder`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tskd_monai.networks.encoders import EncoderOutput, EncoderState, ImageEncoder
from tskd_monai.networks.features import LayerFeatures
from tskd_monai.networks.light_decoder import LightDecoder
from tskd_monai.networks.sam_mask_decoder import SamMaskDecoder


class TeacherNetwork(Protocol):
    """A frozen network that a student learns from.

    Attributes:
        embed_dim: channels of the features.
    """

    embed_dim: int

    def forward_with_embeddings(self, images: Tensor) -> tuple[Tensor | None, Tensor]:
        """Returns logits (B, K, H, W), or None if it predicts no classes, and features (B, E, h, w)."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the weights by name."""
        ...


class VfmSegmenter(nn.Module):
    """Vision foundation model as a segmenter, ``f_T = D_T o E_T``: an image encoder and a decoder.

    Args:
        encoder: maps images in [0, 1] to an ``EncoderOutput``.
        decoder: maps the ``EncoderOutput`` and the normalised images to logits.
        spec: values that the segmenter was built from, kept for saving; see ``tskd_monai.networks.teacher_folder``.

    Attributes:
        saved_sha256: sha256 of the weights as saved, once LoRA is merged into them; ``None`` before.
    """

    saved_sha256: str | None = None

    def __init__(self, encoder: ImageEncoder, decoder: LightDecoder | SamMaskDecoder, spec: Any = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.spec = spec
        self.embed_dim = int(encoder.embed_dim)

    @property
    def frozen_layers(self) -> int:
        """Number of the encoder's layers before the first one with a trainable parameter."""
        layers = self.encoder.layers
        trained = (index for index, layer in enumerate(layers) if any(p.requires_grad for p in layer.parameters()))
        return next(trained, len(layers))

    def train(self, mode: bool = True) -> VfmSegmenter:
        """Sets the mode; frozen layers, and batch normalisation with frozen weights, always stay in evaluation mode.

        Their output then depends on the image only, and the running statistics stay those of the published weights.
        """
        super().train(mode)
        for layer in self.encoder.layers[: self.frozen_layers]:
            layer.eval()
        for module in self.encoder.modules():
            if isinstance(module, _BatchNorm) and not any(p.requires_grad for p in module.parameters()):
                module.eval()
        return self

    @torch.no_grad()
    def begin(self, images: Tensor) -> EncoderState:
        """Returns the state of the encoder after its frozen layers, for :meth:`forward`.

        Args:
            images: ``(B, 1 | 3, H, W)`` in [0, 1], of the encoder's image size.
        """
        self.train(self.training)  # what is frozen since the last call goes into evaluation mode
        return self.encoder.begin(images, self.frozen_layers)

    def forward(self, images: Tensor, state: EncoderState | None = None) -> Tensor:
        """Returns logits.

        Args:
            images: ``(B, 1 | 3, H, W)`` in [0, 1], of the encoder's image size.
            state: what :meth:`begin` returned for these images; the frozen layers are then not run again.

        Returns:
            Logits ``(B, num_classes, H, W)``.
        """
        if state is None:
            return self.forward_with_embeddings(images)[0]
        return self._decode(self.encoder.finish(state, self.frozen_layers), images)

    def _decode(self, encoded: EncoderOutput, images: Tensor) -> Tensor:
        return self.decoder(encoded, self.encoder.normalise(images))

    def forward_with_embeddings(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the logits and the image embeddings, which a student learns from.

        Args:
            images: ``(B, 1 | 3, H, W)`` in [0, 1], of the encoder's image size.

        Returns:
            Logits ``(B, num_classes, H, W)`` and image embeddings ``(B, embed_dim, H / s, W / s)``, ``s`` the
            encoder's ``embed_stride``.

        Raises:
            ValueError: if the image size or the number of channels is another.
        """
        encoded = self.encoder(images)
        return self._decode(encoded, images), encoded.image_embeddings


class SegmentationNetworkTeacher(nn.Module):
    """Any segmentation network as a teacher: its logits, and the output of one layer as features.

    Args:
        network: maps images (B, C, H, W) to logits (B, K, H, W).
        layer: name of the layer whose output is used as features.
        feature_channels: channels of that output.
        neighbours: slices on each side that the network takes as further channels.
    """

    def __init__(self, network: nn.Module, layer: str, feature_channels: int, neighbours: int = 0) -> None:
        super().__init__()
        self.tapped = LayerFeatures(network, layer)
        self.embed_dim = feature_channels
        self.neighbours = neighbours

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits (B, K, H, W)."""
        return self.forward_with_embeddings(images)[0]

    def forward_with_embeddings(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Returns logits (B, K, H, W) and features (B, E, h, w)."""
        logits, features = self.tapped(images)
        return logits, features


class Weighted(Protocol):
    """What has weights: a module, or what stands for one."""

    def state_dict(self) -> Mapping[str, Tensor]:
        """Returns weights and buffers by name."""
        ...


def state_sha256(network: Weighted) -> str:
    """Returns the sha256 of a network's weights and buffers, names included."""
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def teacher_sha256(teacher: TeacherNetwork) -> str:
    """Returns the sha256 that identifies a teacher: that of its weights as saved.

    Merged LoRA is rounded differently on different processors; with this sha256, targets computed on one stay valid on
    others.
    """
    return getattr(teacher, "saved_sha256", None) or state_sha256(teacher)

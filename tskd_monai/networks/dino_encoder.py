"""DINOv2 and DINOv3 ViTs (Oquab et al., arXiv 2304.07193; Siméoni et al., arXiv 2508.10104) as image encoders.

The layers are those of ``transformers``. A class token and register tokens run along with the patch tokens and are
left out of the feature maps.

- DINOv2 has patches of 14 pixels. An image of ``H x W`` pixels is resized to ``14 H / 16 x 14 W / 16``, so that it has
  one token per 16 x 16 pixels of the original, as decoders expect. Its learned positions are interpolated once.
- DINOv3 has patches of 16 pixels and rotary positions relative to the image, which any size shares.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tskd_monai.networks.dino_names import dinov2_entries, dinov3_entries
from tskd_monai.networks.encoders import (
    PATCH_SIZE,
    EncoderOutput,
    EncoderState,
    LayeredEncoder,
    evenly_spaced_depths,
    image_size_hw,
    interpolate_positions,
    linear_layer_names,
    token_grid,
    without_adapter,
)

DINOV2_PATCH_SIZE = 14
INITIALISER_STD = 0.02
ROPE_THETA = 100.0
DINOV3_LAYER_NORM_EPS = 1e-5


@dataclass(frozen=True)
class Dinov2Architecture:
    """Dimensions of a DINOv2 ViT; patches of 14 pixels, MLPs four times as wide.

    Attributes:
        hidden_size: width of the transformer.
        depth: number of layers.
        num_heads: attention heads per layer.
        num_registers: register tokens; 0 for the models without.
    """

    hidden_size: int
    depth: int
    num_heads: int
    num_registers: int = 0

    def build(self, image_size: int, mean: Sequence[float], std: Sequence[float]) -> Dinov2Encoder:
        """Returns an encoder of these dimensions; see :class:`Dinov2Encoder`."""
        return Dinov2Encoder(self, image_size, mean, std)

    def backbone_entries(self, state: Mapping[str, Tensor], source: str | Path) -> dict[str, Tensor]:
        """Returns the encoder's entries of the authors' file or of the hub's; see :func:`dinov2_entries`."""
        return dinov2_entries(state, source)


@dataclass(frozen=True)
class Dinov3Architecture:
    """Dimensions of a DINOv3 ViT; patches of 16 pixels.

    Attributes:
        hidden_size: width of the transformer.
        depth: number of layers.
        num_heads: attention heads per layer.
        mlp_size: width of the MLPs.
        gated: whether the MLPs are SwiGLU.
        num_registers: register tokens.
    """

    hidden_size: int
    depth: int
    num_heads: int
    mlp_size: int
    gated: bool = False
    num_registers: int = 4

    def build(self, image_size: int, mean: Sequence[float], std: Sequence[float]) -> Dinov3Encoder:
        """Returns an encoder of these dimensions; see :class:`Dinov3Encoder`."""
        return Dinov3Encoder(self, image_size, mean, std)

    def backbone_entries(self, state: Mapping[str, Tensor], source: str | Path) -> dict[str, Tensor]:
        """Returns the encoder's entries of the authors' file or of the hub's; see :func:`dinov3_entries`."""
        return dinov3_entries(state, source, ROPE_THETA)


class DinoEncoder(LayeredEncoder):
    """What the encoders of both versions share: tokens through layers, and maps of the patch tokens.

    A subclass sets ``image_size`` and ``backbone`` and implements ``layers``, ``_embed`` and ``_norm``.

    It returns image embeddings ``(B, hidden_size, H / 16, W / 16)``, the patch tokens after the final LayerNorm,
    and the patch tokens after four evenly spaced layers, of the same shape, before it.

    Args:
        architecture: dimensions of the network.
        mean: mean of each colour channel, for input in [0, 1].
        std: standard deviation of each colour channel.
    """

    def __init__(
        self, architecture: Dinov2Architecture | Dinov3Architecture, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__(mean, std)
        self.prefix_tokens = 1 + architecture.num_registers
        self.embed_dim = architecture.hidden_size
        self.embed_stride = PATCH_SIZE
        self.feature_depths = evenly_spaced_depths(architecture.depth)
        self.feature_channels = (architecture.hidden_size,) * len(self.feature_depths)
        self.feature_strides = (PATCH_SIZE,) * len(self.feature_depths)

    @property
    def _norm(self) -> nn.Module:
        """The LayerNorm after the last layer."""
        raise NotImplementedError

    def _output(self, state: EncoderState) -> EncoderOutput:
        return EncoderOutput(self._as_map(self._norm(state.hidden)), tuple(map(self._as_map, state.features)))

    def _as_map(self, tokens: Tensor) -> Tensor:
        """Drops class and register tokens and reshapes ``(B, 1 + R + N, C)`` to ``(B, C, h, w)``."""
        return tokens[:, self.prefix_tokens :].transpose(1, 2).unflatten(2, token_grid(self.image_size))

    @torch.no_grad()
    def initialise_randomly(self) -> None:
        """Draws the register tokens, zero in an untrained DINOv2, from N(0, 0.02²); all others are random already."""
        if self.prefix_tokens > 1:
            nn.init.normal_(self.backbone.embeddings.register_tokens, std=INITIALISER_STD)


class Dinov2Encoder(DinoEncoder):
    """DINOv2 with or without registers.

    It is built at the image size that its weights were trained at, which defines the shapes of a checkpoint;
    :meth:`resize_to` resizes it to the task's, which may be rectangular.

    Args:
        architecture: dimensions of the network.
        image_size: side in pixels of the images that the weights were trained on, a multiple of 14. ``image_size`` of
            the encoder is the size in patches of 16 pixels: 592 for the published 518.
        mean: mean of each colour channel, for input in [0, 1].
        std: standard deviation of each colour channel.
    """

    def __init__(
        self, architecture: Dinov2Architecture, image_size: int, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__(architecture, mean, std)
        self.image_size = image_size_hw(image_size // DINOV2_PATCH_SIZE * PATCH_SIZE)
        # transformers averages neighbours in downsampled positions only in the models with registers, as the authors.
        self.antialias = architecture.num_registers > 0
        self.backbone = _dinov2(architecture, image_size)
        self.default_lora_targets = linear_layer_names(self.layers)

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The transformer layers, first to last."""
        return self.backbone.encoder.layer

    @property
    def _norm(self) -> nn.Module:
        return self.backbone.layernorm

    def _embed(self, pixels: Tensor) -> Tensor:
        embeddings = self.backbone.embeddings
        height, width = (DINOV2_PATCH_SIZE * side for side in token_grid(self.image_size))
        pixels = F.interpolate(pixels, size=(height, width), mode="bilinear", align_corners=False, antialias=True)
        patches = embeddings.patch_embeddings(pixels)
        batch = len(patches)
        tokens = torch.cat([embeddings.cls_token.expand(batch, -1, -1), patches], dim=1)
        tokens = tokens + embeddings.position_embeddings
        if self.prefix_tokens == 1:
            return tokens
        registers = embeddings.register_tokens.expand(batch, -1, -1)
        return torch.cat([tokens[:, :1], registers, tokens[:, 1:]], dim=1)

    def resize_to(self, image_size: int | Sequence[int]) -> None:
        """Interpolates the positions bicubically to another image size, in place; the same size changes nothing.

        Args:
            image_size: side or ``(H, W)`` in pixels, multiples of 16 up to 1024.

        Raises:
            ValueError: if a side is not such a multiple.
        """
        size = image_size_hw(image_size)
        if size == self.image_size:
            return
        embeddings = self.backbone.embeddings
        positions = embeddings.position_embeddings.detach()
        patches = positions[:, 1:].unflatten(1, token_grid(self.image_size))
        patches = interpolate_positions(patches, token_grid(size), antialias=self.antialias)
        embeddings.position_embeddings = nn.Parameter(torch.cat([positions[:, :1], patches.flatten(1, 2)], dim=1))
        self.image_size = size


class Dinov3Encoder(DinoEncoder):
    """DINOv3 ViT.

    Args:
        architecture: dimensions of the network.
        image_size: side in pixels, a multiple of 16; no parameter depends on it.
        mean: mean of each colour channel, for input in [0, 1].
        std: standard deviation of each colour channel.
    """

    def __init__(
        self, architecture: Dinov3Architecture, image_size: int, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__(architecture, mean, std)
        self.image_size = image_size_hw(image_size)
        self.backbone = _dinov3(architecture)
        self.default_lora_targets = linear_layer_names(self.layers)

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The transformer layers, first to last."""
        # A PeftModel has an attribute `model` of its own.
        return without_adapter(self.backbone).model.layer

    @property
    def _norm(self) -> nn.Module:
        return self.backbone.norm

    def _embed(self, pixels: Tensor) -> Tensor:
        return self.backbone.embeddings(pixels)

    def _callables(self) -> Sequence[Callable[[Tensor], Tensor]]:
        weight = self.backbone.embeddings.patch_embeddings.weight
        rotations = self.backbone.rope_embeddings(weight.new_empty(1, 1, *self.image_size))
        return [partial(layer, position_embeddings=rotations) for layer in self.layers]

    def resize_to(self, image_size: int | Sequence[int]) -> None:
        """Sets another image size, in place; rotary positions need no interpolation.

        Args:
            image_size: side or ``(H, W)`` in pixels, multiples of 16 up to 1024.

        Raises:
            ValueError: if a side is not such a multiple.
        """
        self.image_size = image_size_hw(image_size)


def _dinov2(architecture: Dinov2Architecture, image_size: int) -> nn.Module:
    # Imported here: MONAI Label's server builds students without transformers installed.
    from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    numbers: dict[str, Any] = {
        "hidden_size": architecture.hidden_size,
        "num_hidden_layers": architecture.depth,
        "num_attention_heads": architecture.num_heads,
        "image_size": image_size,
        "patch_size": DINOV2_PATCH_SIZE,
        "attn_implementation": "sdpa",
    }
    if architecture.num_registers == 0:
        return Dinov2Model(Dinov2Config(**numbers, use_mask_token=False))
    config = Dinov2WithRegistersConfig(**numbers, num_register_tokens=architecture.num_registers)
    return _without_mask_token(Dinov2WithRegistersModel(config))


def _dinov3(architecture: Dinov3Architecture) -> nn.Module:
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    config = DINOv3ViTConfig(
        hidden_size=architecture.hidden_size,
        num_hidden_layers=architecture.depth,
        num_attention_heads=architecture.num_heads,
        intermediate_size=architecture.mlp_size,
        use_gated_mlp=architecture.gated,
        hidden_act="silu" if architecture.gated else "gelu",
        num_register_tokens=architecture.num_registers,
        patch_size=PATCH_SIZE,
        layer_norm_eps=DINOV3_LAYER_NORM_EPS,
        rope_theta=ROPE_THETA,
        pos_embed_rescale=None,  # an augmentation of pre-training, which would make features random in training mode
        attn_implementation="sdpa",
    )
    return _without_mask_token(DINOv3ViTModel(config))


def _without_mask_token(backbone: Any) -> nn.Module:
    """Removes the parameter that only pre-training uses: plain DDP refuses parameters without gradient."""
    backbone.embeddings.mask_token = None
    return backbone

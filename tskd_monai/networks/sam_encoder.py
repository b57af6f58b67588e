"""SAM's image encoder (Kirillov et al., "Segment Anything", 2023) at the image size of a task.

The layers are ``transformers``' ``SamVisionEncoder``; weights under the names of the original implementation are
renamed. Weights are loaded at the size they were trained at; then the position parameters are interpolated once, so
that a checkpoint holds them at the task's size.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tskd_monai.networks.encoders import (
    PATCH_SIZE,
    EncoderOutput,
    EncoderState,
    LayeredEncoder,
    evenly_spaced_depths,
    image_size_hw,
    interpolate_positions,
    token_grid,
)

if TYPE_CHECKING:
    from transformers.models.sam.modeling_sam import SamVisionEncoder

INITIALISER_STD = 0.02  # transformers' default of 1e-10 for this class makes an untrained encoder almost zero
ENCODER_PREFIX = "vision_encoder."
NON_ENCODER_PREFIXES = ("mask_decoder.", "prompt_encoder.", "shared_image_embedding.")

RENAMINGS: tuple[tuple[str, str], ...] = (
    (r"^image_encoder\.", ENCODER_PREFIX),
    (r"(?<=vision_encoder\.)blocks\.", "layers."),
    (r"patch_embed\.proj\.", "patch_embed.projection."),
    (r"neck\.0\.", "neck.conv1."),
    (r"neck\.1\.", "neck.layer_norm1."),
    (r"neck\.2\.", "neck.conv2."),
    (r"neck\.3\.", "neck.layer_norm2."),
    (r"\.norm(?=\d|_final_attn)", ".layer_norm"),
    (r"(output_hypernetworks_mlps\.\d+|iou_prediction_head)\.layers\.0\.", r"\1.proj_in."),
    (r"(output_hypernetworks_mlps\.\d+|iou_prediction_head)\.layers\.1\.", r"\1.layers.0."),
    (r"(output_hypernetworks_mlps\.\d+|iou_prediction_head)\.layers\.2\.", r"\1.proj_out."),
    (r"output_upscaling\.0\.", "upscale_conv1."),
    (r"output_upscaling\.1\.", "upscale_layer_norm."),
    (r"output_upscaling\.3\.", "upscale_conv2."),
    (r"^prompt_encoder\.point_embeddings\.", "prompt_encoder.point_embed."),
    (r"^prompt_encoder\.mask_downscaling\.0\.", "prompt_encoder.mask_embed.conv1."),
    (r"^prompt_encoder\.mask_downscaling\.1\.", "prompt_encoder.mask_embed.layer_norm1."),
    (r"^prompt_encoder\.mask_downscaling\.3\.", "prompt_encoder.mask_embed.conv2."),
    (r"^prompt_encoder\.mask_downscaling\.4\.", "prompt_encoder.mask_embed.layer_norm2."),
    (r"^prompt_encoder\.mask_downscaling\.6\.", "prompt_encoder.mask_embed.conv3."),
    (r"^prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix$", "shared_image_embedding.positional_embedding"),
)
"""Renaming of the original names to those of transformers' ``SamModel``, applied in this order."""


@dataclass(frozen=True)
class SamArchitecture:
    """Dimensions of a SAM image encoder.

    Attributes:
        hidden_size: width of the transformer.
        depth: number of layers.
        num_heads: attention heads per layer.
        global_layers: indices of the layers with global attention; the others attend within windows.
        window_size: side of an attention window in tokens.
        embed_dim: channels of the image embeddings (after the neck).
    """

    hidden_size: int
    depth: int
    num_heads: int
    global_layers: tuple[int, ...]
    window_size: int = 14
    embed_dim: int = 256

    def build(self, image_size: int, mean: Sequence[float], std: Sequence[float]) -> SamEncoder:
        """Returns an encoder of these dimensions; see :class:`SamEncoder`."""
        return SamEncoder(self, image_size, mean, std)

    def backbone_entries(self, state: Mapping[str, Tensor], source: str | Path) -> dict[str, Tensor]:
        """Returns the image encoder's entries of a SAM file under either naming; see :func:`encoder_entries`."""
        return encoder_entries(state, source)


class SamEncoder(LayeredEncoder):
    """SAM image encoder that also returns hidden states from four depths.

    It is built at the weights' native (square) size; :meth:`resize_to` resizes it to the task's, which may be
    rectangular.

    It returns image embeddings ``(B, embed_dim, H / 16, W / 16)`` and the hidden states ``(B, hidden_size, H / 16,
    W / 16)`` after four evenly spaced layers.

    Args:
        architecture: dimensions of the network.
        image_size: side in pixels of the images that the weights were trained on, a multiple of 16.
        mean: mean of each colour channel, for input in [0, 1].
        std: standard deviation of each colour channel.

    Raises:
        ValueError: if ``image_size`` is not a multiple of 16 up to 1024.
    """

    default_lora_targets: tuple[str, ...] = ("attn.qkv", "attn.proj", "mlp.lin1", "mlp.lin2")

    def __init__(
        self, architecture: SamArchitecture, image_size: int, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__(mean, std)
        self.image_size = image_size_hw(image_size)
        self.embed_dim = architecture.embed_dim
        self.embed_stride = PATCH_SIZE
        self.feature_depths = evenly_spaced_depths(architecture.depth)
        self.feature_channels = (architecture.hidden_size,) * len(self.feature_depths)
        self.feature_strides = (PATCH_SIZE,) * len(self.feature_depths)
        self.backbone = _vision_encoder(architecture, image_size)

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The transformer layers, first to last."""
        return self.backbone.layers

    def _embed(self, pixels: Tensor) -> Tensor:
        return self.backbone.patch_embed.projection(pixels).permute(0, 2, 3, 1) + self.backbone.pos_embed

    def _output(self, state: EncoderState) -> EncoderOutput:
        features = tuple(hidden.permute(0, 3, 1, 2) for hidden in state.features)
        return EncoderOutput(self.backbone.neck(state.hidden), features)

    def resize_to(self, image_size: int | Sequence[int]) -> None:
        """Interpolates the positions to another image size, in place; the same size changes nothing.

        Absolute positions are interpolated bicubically. Relative positions are interpolated linearly, and only in the
        layers with global attention: the window size does not change.

        Args:
            image_size: side or ``(H, W)`` in pixels, multiples of 16 up to 1024.

        Raises:
            ValueError: if a side is not such a multiple.
        """
        size = image_size_hw(image_size)
        if size == self.image_size:
            return
        grid = token_grid(size)
        positions = interpolate_positions(self.backbone.pos_embed.detach(), grid, antialias=False)
        self.backbone.pos_embed = nn.Parameter(positions)
        for layer in self.backbone.layers:
            if layer.window_size == 0:
                layer.attn.rel_pos_h = nn.Parameter(_interpolate_offsets(layer.attn.rel_pos_h.detach(), grid[0]))
                layer.attn.rel_pos_w = nn.Parameter(_interpolate_offsets(layer.attn.rel_pos_w.detach(), grid[1]))
        self.image_size = size

    @torch.no_grad()
    def initialise_randomly(self) -> None:
        """Draws the position parameters, zero in an untrained SAM, from N(0, 0.02²); all others are random already."""
        nn.init.normal_(self.backbone.pos_embed, std=INITIALISER_STD)
        for layer in self.backbone.layers:
            nn.init.normal_(layer.attn.rel_pos_h, std=INITIALISER_STD)
            nn.init.normal_(layer.attn.rel_pos_w, std=INITIALISER_STD)


def _vision_encoder(architecture: SamArchitecture, image_size: int) -> SamVisionEncoder:
    # Imported here: MONAI Label's server builds students without transformers installed.
    from transformers.models.sam.configuration_sam import SamVisionConfig
    from transformers.models.sam.modeling_sam import SamVisionEncoder

    config = SamVisionConfig(
        hidden_size=architecture.hidden_size,
        output_channels=architecture.embed_dim,
        num_hidden_layers=architecture.depth,
        num_attention_heads=architecture.num_heads,
        image_size=image_size,
        patch_size=PATCH_SIZE,
        window_size=architecture.window_size,
        global_attn_indexes=list(architecture.global_layers),
        num_pos_feats=architecture.embed_dim // 2,
        initializer_range=INITIALISER_STD,
        attn_implementation="sdpa",
    )
    return SamVisionEncoder(config)


def _interpolate_offsets(offsets: Tensor, side: int) -> Tensor:
    """Interpolates ``(2 h - 1, C)`` embeddings of token offsets linearly to ``(2 side - 1, C)``."""
    resized = F.interpolate(offsets.t().unsqueeze(0), size=2 * side - 1, mode="linear", align_corners=False)
    return resized.squeeze(0).t().contiguous()


def to_transformers_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns a SAM state dict under the names of ``transformers``' ``SamModel``.

    A checkpoint without original ``image_encoder.*`` entries is returned unchanged.
    """
    if not any(name.startswith("image_encoder.") for name in state):
        return dict(state)
    return {_renamed(name): value for name, value in state.items()}


def _renamed(name: str) -> str:
    for pattern, replacement in RENAMINGS:
        name = re.sub(pattern, replacement, name)
    return name


def encoder_entries(state: Mapping[str, Tensor], source: str | Path) -> dict[str, Tensor]:
    """Returns the image encoder's entries without their prefix.

    Mask decoder and prompt encoder are dropped; any other entry is kept under its name, so that strict loading reports
    it.

    Raises:
        ValueError: if the file contains no image encoder.
    """
    state = to_transformers_names(state)
    if not any(name.startswith(ENCODER_PREFIX) for name in state):
        raise ValueError(
            f"Expected a SAM image encoder (image_encoder.* or vision_encoder.*) in {source}, found entries such as "
            f"{', '.join(sorted(state)[:3])}."
        )
    return {
        name.removeprefix(ENCODER_PREFIX): value
        for name, value in state.items()
        if not name.startswith(NON_ENCODER_PREFIXES)
    }

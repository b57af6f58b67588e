"""SAM 2's image encoder (Ravi et al., "SAM 2", arXiv 2408.00714): Hiera and a feature pyramid, at any image size.

The layers are those of ``transformers``' ``Sam2VisionModel``; weights under the names of the original implementation
are renamed. Four stages work at strides 4, 8, 16 and 32. The feature pyramid projects the first two, and adds the
fourth to the third, which gives the image embeddings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tskd_monai.networks.encoders import (
    EncoderOutput,
    EncoderState,
    LayeredEncoder,
    image_size_hw,
    linear_layer_names,
)

INITIALISER_STD = 0.02
STRIDES = (4, 8, 16)
"""Pixels per position of the maps that the feature pyramid returns."""
COARSEST_STRIDE = 32  # of the last stage
ENCODER_PREFIX = "vision_encoder."
RENAMINGS: tuple[tuple[str, str], ...] = (
    (r"^image_encoder\.trunk\.", f"{ENCODER_PREFIX}backbone."),
    (r"^image_encoder\.neck\.convs\.(\d+)\.conv\.", rf"{ENCODER_PREFIX}neck.convs.\1."),
    (r"\.patch_embed\.proj\.", ".patch_embed.projection."),
    (r"(?<=backbone\.blocks)\.(\d+)\.norm", r".\1.layer_norm"),
    (r"(?<=backbone\.blocks)\.(\d+)\.mlp\.layers\.0\.", r".\1.mlp.proj_in."),
    (r"(?<=backbone\.blocks)\.(\d+)\.mlp\.layers\.1\.", r".\1.mlp.proj_out."),
)
"""Renaming of the original names to those of transformers' ``Sam2Model``, applied in this order."""
NOT_OF_THE_ENCODER = re.compile(
    r"^((sam_)?(prompt_encoder|mask_decoder)\.|shared_image_embedding\.|memory_|maskmem_|mask_downsample\.|no_mem|no_ob"
    r"|obj_ptr_|object_pointer_|occlusion_spatial_|temporal_positional_)"
)
"""Prompt encoder, mask decoder and the memory of videos, under the original names and those of ``transformers``."""


@dataclass(frozen=True)
class HieraArchitecture:
    """Dimensions of SAM 2's image encoder; the width and the number of heads double from stage to stage.

    Attributes:
        hidden_size: width of the first stage.
        num_heads: attention heads of the first stage.
        depths: layers of each stage.
        global_layers: indices of the layers with global attention; the others attend within windows.
        window_sizes: side of an attention window in tokens, by stage.
        position_grid: side of the grid of learned positions, which are interpolated to the image.
        embed_dim: channels of the maps that the feature pyramid returns.
    """

    hidden_size: int
    num_heads: int
    depths: tuple[int, int, int, int]
    global_layers: tuple[int, ...]
    window_sizes: tuple[int, int, int, int] = (8, 4, 14, 7)
    position_grid: int = 7
    embed_dim: int = 256

    def build(self, image_size: int, mean: Sequence[float], std: Sequence[float]) -> HieraEncoder:
        """Returns an encoder of these dimensions; see :class:`HieraEncoder`."""
        return HieraEncoder(self, image_size, mean, std)

    def backbone_entries(self, state: Mapping[str, Tensor], source: str | Path) -> dict[str, Tensor]:
        """Returns the image encoder's entries of a SAM 2 file; see :func:`encoder_entries`."""
        return encoder_entries(state, source)


class HieraEncoder(LayeredEncoder):
    """SAM 2's image encoder.

    Images whose sides are no multiples of 32, the stride of the last stage, are padded at the bottom and right with the
    mean colour; the maps are cropped.

    It returns maps of the feature pyramid with ``embed_dim`` channels: image embeddings ``(B, C, H / 16, W / 16)``,
    and as features those of ``(H / 4, W / 4)`` and ``(H / 8, W / 8)``.

    Args:
        architecture: dimensions of the network.
        image_size: side in pixels, a multiple of 16; no parameter depends on it.
        mean: mean of each colour channel, for input in [0, 1].
        std: standard deviation of each colour channel.

    Raises:
        ValueError: if ``image_size`` is not a multiple of 16 up to 1024.
    """

    def __init__(
        self, architecture: HieraArchitecture, image_size: int, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__(mean, std)
        self.image_size = image_size_hw(image_size)
        self.embed_dim = architecture.embed_dim
        self.feature_depths = tuple(end - 1 for end in accumulate(architecture.depths))
        self.feature_strides: tuple[int, ...] = STRIDES[:-1]
        self.embed_stride = STRIDES[-1]
        self.feature_channels = (architecture.embed_dim,) * len(self.feature_strides)
        self.backbone = _vision_model(architecture)
        self.default_lora_targets = linear_layer_names(self.layers)

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The layers of all stages, first to last; the first of a stage halves the resolution."""
        return self.backbone.backbone.blocks

    def _embed(self, pixels: Tensor) -> Tensor:
        height, width = self.image_size
        padding = (0, -width % COARSEST_STRIDE, 0, -height % COARSEST_STRIDE)
        hidden = self.backbone.backbone.patch_embed(F.pad(pixels, padding))
        return hidden + self._positions(hidden.shape[1:3])

    def _output(self, state: EncoderState) -> EncoderOutput:
        pyramid, _ = self.backbone.neck(state.features)  # coarse to fine
        height, width = self.image_size
        maps = [
            entry[..., : height // stride, : width // stride]
            for entry, stride in zip(pyramid[::-1], STRIDES, strict=False)
        ]
        return EncoderOutput(maps[-1], tuple(maps[:-1]))

    def _positions(self, grid: Sequence[int]) -> Tensor:
        """Returns positions ``(1, h, w, C)``: a coarse grid, interpolated, plus those within a window, repeated."""
        trunk = self.backbone.backbone
        positions = F.interpolate(trunk.pos_embed, size=tuple(grid), mode="bicubic", align_corners=False)
        window = trunk.pos_embed_window
        repeats = [-(-side // own) for side, own in zip(grid, window.shape[2:], strict=True)]
        return (positions + window.tile(1, 1, *repeats)[..., : grid[0], : grid[1]]).permute(0, 2, 3, 1)

    def resize_to(self, image_size: int | Sequence[int]) -> None:
        """Sets another image size, in place; the published grid of positions is interpolated in each pass.

        Args:
            image_size: side or ``(H, W)`` in pixels, multiples of 16 up to 1024.

        Raises:
            ValueError: if a side is not such a multiple.
        """
        self.image_size = image_size_hw(image_size)

    @torch.no_grad()
    def initialise_randomly(self) -> None:
        """Draws the positions, zero in an untrained SAM 2, from N(0, 0.02²); all others are random already."""
        trunk = self.backbone.backbone
        nn.init.normal_(trunk.pos_embed, std=INITIALISER_STD)
        nn.init.normal_(trunk.pos_embed_window, std=INITIALISER_STD)


def _vision_model(architecture: HieraArchitecture) -> nn.Module:
    # Imported here: MONAI Label's server builds students without transformers installed.
    from transformers import Sam2HieraDetConfig, Sam2VisionConfig, Sam2VisionModel

    widths = [architecture.hidden_size * 2**stage for stage in range(4)]
    backbone = Sam2HieraDetConfig(
        hidden_size=architecture.hidden_size,
        num_attention_heads=architecture.num_heads,
        blocks_per_stage=list(architecture.depths),
        embed_dim_per_stage=widths,
        num_attention_heads_per_stage=[architecture.num_heads * 2**stage for stage in range(4)],
        window_size_per_stage=list(architecture.window_sizes),
        global_attention_blocks=list(architecture.global_layers),
        window_positional_embedding_background_size=[architecture.position_grid] * 2,
    )
    config = Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=widths[::-1],
        fpn_hidden_size=architecture.embed_dim,
        attn_implementation="sdpa",
    )
    return Sam2VisionModel(config)


def encoder_entries(state: Mapping[str, Tensor], source: str | Path) -> dict[str, Tensor]:
    """Returns the image encoder's entries, under the names of ``transformers``' ``Sam2VisionModel``.

    Prompt encoder, mask decoder and the memory of videos are dropped; any other entry is kept under its name, so that
    strict loading reports it.

    Raises:
        ValueError: if the file contains no encoder of SAM 2.
    """
    renamed = {_renamed(name): value for name, value in state.items()}
    if not any(name.startswith(f"{ENCODER_PREFIX}backbone.") for name in renamed):
        raise ValueError(
            f"Expected a SAM 2 image encoder (image_encoder.trunk.* or vision_encoder.backbone.*) in {source}, found "
            f"entries such as {', '.join(sorted(state)[:3])}."
        )
    return {
        name.removeprefix(ENCODER_PREFIX): value
        for name, value in renamed.items()
        if not NOT_OF_THE_ENCODER.match(name)
    }


def _renamed(name: str) -> str:
    for pattern, replacement in RENAMINGS:
        name = re.sub(pattern, replacement, name)
    return name

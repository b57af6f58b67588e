"""TinyViT as LiteMedSAM's image encoder (Wu et al., "TinyViT", 2022; Ma et al., "MedSAM", 2024).

A patch embedding of stride 1 and four stages at strides 1, 2, 4 and 4: the first of convolutions, the others of
attention within windows, each window's attention biased by the offset between its tokens. No parameter depends on the
size of the image, so the published weights, trained at 256 pixels, apply to any size. Parameter names are those of the
published file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from tskd_monai.networks.encoders import (
    EncoderOutput,
    EncoderState,
    LayeredEncoder,
    evenly_spaced_depths,
    image_size_hw,
)
from tskd_monai.networks.tiny_vit_layers import Block, ChannelNorm, InvertedResidual, Merge, PatchEmbed, Stage

MERGE_STRIDES = (2, 2, 1)
"""Strides of the layers between the four stages."""
EMBED_STRIDE = 4
INITIALISER_STD = 0.02
ENCODER_PREFIX = "image_encoder."
OTHER_PREFIXES = ("mask_decoder.", "prompt_encoder.")
BATCH_COUNTER = ".num_batches_tracked"


@dataclass(frozen=True)
class TinyVitArchitecture:
    """Dimensions of a TinyViT encoder; the defaults are LiteMedSAM's.

    Attributes:
        widths: channels of each of the four stages.
        depths: layers of each stage, without the layers between stages.
        num_heads: attention heads of the second to fourth stage.
        windows: side of an attention window of the second to fourth stage, in positions.
        embed_dim: channels of the image embeddings (after the neck).
    """

    widths: tuple[int, int, int, int] = (64, 128, 160, 320)
    depths: tuple[int, int, int, int] = (2, 2, 6, 2)
    num_heads: tuple[int, int, int] = (4, 5, 10)
    windows: tuple[int, int, int] = (7, 14, 7)
    embed_dim: int = 256

    def build(self, image_size: int, mean: Sequence[float], std: Sequence[float]) -> TinyVitEncoder:
        """Returns an encoder of these dimensions; see :class:`TinyVitEncoder`."""
        return TinyVitEncoder(self, image_size, mean, std)

    def backbone_entries(self, state: Mapping[str, Tensor], source: str | Path) -> dict[str, Tensor]:
        """Returns the image encoder's entries of a LiteMedSAM file without their prefix.

        Prompt encoder, mask decoder and the counters of batch normalisation, which nothing reads, are dropped; any
        other entry is kept under its name, so that strict loading reports it.

        Raises:
            ValueError: if the file contains no image encoder.
        """
        if not any(name.startswith(ENCODER_PREFIX) for name in state):
            raise ValueError(
                f"Expected LiteMedSAM's image encoder ({ENCODER_PREFIX}*) in {source}, found entries such as "
                f"{', '.join(sorted(state)[:3])}."
            )
        return {
            name.removeprefix(ENCODER_PREFIX): value
            for name, value in state.items()
            if not name.startswith(OTHER_PREFIXES) and not name.endswith(BATCH_COUNTER)
        }


class TinyVit(nn.Module):
    """Patch embedding, stages and neck, under the names of LiteMedSAM's file.

    Args:
        architecture: dimensions of the network.
    """

    def __init__(self, architecture: TinyVitArchitecture) -> None:
        super().__init__()
        widths, embed_dim = architecture.widths, architecture.embed_dim
        self.patch_embed = PatchEmbed(widths[0])
        merges = [Merge(widths[i], widths[i + 1], stride) for i, stride in enumerate(MERGE_STRIDES)]
        self.layers = nn.ModuleList(
            Stage(_stage_blocks(architecture, index), merge) for index, merge in enumerate([*merges, None])
        )
        self.neck = nn.Sequential(
            nn.Conv2d(widths[-1], embed_dim, kernel_size=1, bias=False),
            ChannelNorm(embed_dim),
            nn.Conv2d(embed_dim, embed_dim, kernel_size=3, padding=1, bias=False),
            ChannelNorm(embed_dim),
        )


class TinyVitEncoder(LayeredEncoder):
    """TinyViT as an image encoder, with hidden states of four depths, all at stride 4.

    It returns image embeddings ``(B, embed_dim, H / 4, W / 4)`` and the hidden states ``(B, C_l, H / 4, W / 4)``
    after four evenly spaced layers of the last two stages.

    Args:
        architecture: dimensions of the network.
        image_size: side in pixels of the images that the weights were trained on, a multiple of 16.
        mean: mean of each colour channel, for input in [0, 1].
        std: standard deviation of each colour channel.

    Raises:
        ValueError: if ``image_size`` is not a multiple of 16 up to 1024.
    """

    default_lora_targets: tuple[str, ...] = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")

    def __init__(
        self, architecture: TinyVitArchitecture, image_size: int, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__(mean, std)
        self.image_size = image_size_hw(image_size)
        self.embed_dim = architecture.embed_dim
        self.embed_stride = EMBED_STRIDE
        self.feature_depths, self.feature_channels = _features(architecture)
        self.feature_strides = (EMBED_STRIDE,) * len(self.feature_depths)
        self.backbone = TinyVit(architecture)

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The blocks of all stages and the layers between them, in running order."""
        running: list[nn.Module] = []
        for stage in self.backbone.layers:
            running += [*stage.blocks, *([] if stage.downsample is None else [stage.downsample])]
        return running

    def _embed(self, pixels: Tensor) -> Tensor:
        return self.backbone.patch_embed(pixels)

    def _output(self, state: EncoderState) -> EncoderOutput:
        return EncoderOutput(self.backbone.neck(state.hidden), state.features)

    def resize_to(self, image_size: int | Sequence[int]) -> None:
        """Sets another image size; no parameter depends on it.

        Args:
            image_size: side or ``(H, W)`` in pixels, multiples of 16 up to 1024.

        Raises:
            ValueError: if a side is not such a multiple.
        """
        self.image_size = image_size_hw(image_size)

    @torch.no_grad()
    def initialise_randomly(self) -> None:
        """Draws the attention biases, zero in an untrained TinyViT, from N(0, 0.02²); all others are random already."""
        for name, parameter in self.backbone.named_parameters():
            if name.endswith("attention_biases"):
                nn.init.normal_(parameter, std=INITIALISER_STD)


def _stage_blocks(architecture: TinyVitArchitecture, index: int) -> list[nn.Module]:
    width, depth = architecture.widths[index], architecture.depths[index]
    if index == 0:
        return [InvertedResidual(width) for _ in range(depth)]
    heads, window = architecture.num_heads[index - 1], architecture.windows[index - 1]
    return [Block(width, heads, window) for _ in range(depth)]


def _features(architecture: TinyVitArchitecture) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns indices and channels of the layers whose outputs are features: up to four blocks of the last two stages.

    Indices count all layers in running order, those between stages included.
    """
    widths, depths = architecture.widths, architecture.depths
    start = depths[0] + depths[1] + 2
    blocks = [(start + block, widths[2]) for block in range(depths[2])]
    blocks += [(start + depths[2] + 1 + block, widths[3]) for block in range(depths[3])]
    chosen = [blocks[depth] for depth in evenly_spaced_depths(len(blocks))]
    return tuple(index for index, _ in chosen), tuple(width for _, width in chosen)

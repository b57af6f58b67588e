"""Plain vision transformers (Dosovitskiy et al., 2021) with timm's parameter names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

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

LAYER_NORM_EPS = 1e-6  # timm's value; PyTorch's default of 1e-5 changes the output of published weights
INITIALISER_STD = 0.02
CLASSIFIER_ENTRIES = ("head.weight", "head.bias")


@dataclass(frozen=True)
class PlainVitArchitecture:
    """Dimensions of a plain ViT: width, layers and attention heads; patches of 16 pixels, MLPs four times as wide."""

    hidden_size: int
    depth: int
    num_heads: int

    def build(self, image_size: int, mean: Sequence[float], std: Sequence[float]) -> PlainVitEncoder:
        """Returns an encoder of these dimensions; see :class:`PlainVitEncoder`."""
        return PlainVitEncoder(self, image_size, mean, std)

    def backbone_entries(self, state: Mapping[str, Tensor], source: str | Path) -> dict[str, Tensor]:
        """Returns the entries of a weights file except the classifier."""
        return {name: value for name, value in state.items() if name not in CLASSIFIER_ENTRIES}


TINY = PlainVitArchitecture(192, 12, 3)
SMALL = PlainVitArchitecture(384, 12, 6)
BASE = PlainVitArchitecture(768, 12, 12)
PRETRAINING_SIZE = 224
"""Side in pixels of the images that timm's published weights were trained on."""
MEAN = (0.5, 0.5, 0.5)
STD = (0.5, 0.5, 0.5)
"""Mean and standard deviation of these images, per colour channel, for input in [0, 1]."""


class Attention(nn.Module):
    """Multi-head self-attention with fused query, key and value: ``softmax(q k^T / sqrt(d)) v``."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, tokens: Tensor) -> Tensor:
        """Maps ``(B, N, C)`` to ``(B, N, C)``."""
        batch, count, width = tokens.shape
        qkv = self.qkv(tokens).reshape(batch, count, 3, self.num_heads, width // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).reshape(batch, count, width))


class Mlp(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(hidden_size, 4 * hidden_size)
        self.fc2 = nn.Linear(4 * hidden_size, hidden_size)

    def forward(self, tokens: Tensor) -> Tensor:
        """Maps ``(B, N, C)`` to ``(B, N, C)``."""
        return self.fc2(F.gelu(self.fc1(tokens)))


class Block(nn.Module):
    """Pre-norm transformer layer."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(hidden_size, eps=LAYER_NORM_EPS)
        self.attn = Attention(hidden_size, num_heads)
        self.norm2 = nn.LayerNorm(hidden_size, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(hidden_size)

    def forward(self, tokens: Tensor) -> Tensor:
        """Maps ``(B, N, C)`` to ``(B, N, C)``."""
        tokens = tokens + self.attn(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class PatchEmbed(nn.Module):
    """Projects each patch of 16 x 16 pixels to a token."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, hidden_size, kernel_size=PATCH_SIZE, stride=PATCH_SIZE)

    def forward(self, images: Tensor) -> Tensor:
        """Maps ``(B, 3, H, W)`` to ``(B, H / 16 * W / 16, C)``, rows first."""
        return self.proj(images).flatten(2).transpose(1, 2)


class PlainVit(nn.Module):
    """Plain ViT with a class token and learned positions; parameter names as in timm.

    Args:
        architecture: width, depth and heads.
        grid: tokens along height and width.
    """

    def __init__(self, architecture: PlainVitArchitecture, grid: tuple[int, int]) -> None:
        super().__init__()
        width = architecture.hidden_size
        self.patch_embed = PatchEmbed(width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid[0] * grid[1], width))
        self.blocks = nn.ModuleList(Block(width, architecture.num_heads) for _ in range(architecture.depth))
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.apply(_initialise)
        nn.init.normal_(self.cls_token, std=INITIALISER_STD)
        nn.init.normal_(self.pos_embed, std=INITIALISER_STD)

    def embed(self, images: Tensor) -> Tensor:
        """Returns the tokens ``(B, 1 + N, C)`` of ``(B, 3, H, W)``, normalised; the class token is the first."""
        tokens = self.patch_embed(images)
        return torch.cat([self.cls_token.expand(tokens.shape[0], -1, -1), tokens], dim=1) + self.pos_embed


class PlainVitEncoder(LayeredEncoder):
    """Plain ViT as an image encoder: its normalised last tokens are the image embeddings.

    It returns image embeddings ``(B, hidden_size, H / 16, W / 16)`` (after the final LayerNorm) and the hidden
    states of the same shape after four evenly spaced blocks (before it).

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
        self, architecture: PlainVitArchitecture, image_size: int, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__(mean, std)
        self.image_size = image_size_hw(image_size)
        self.embed_dim = architecture.hidden_size
        self.embed_stride = PATCH_SIZE
        self.feature_depths = evenly_spaced_depths(architecture.depth)
        self.feature_channels = (architecture.hidden_size,) * len(self.feature_depths)
        self.feature_strides = (PATCH_SIZE,) * len(self.feature_depths)
        self.backbone = PlainVit(architecture, token_grid(self.image_size))

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The blocks, first to last."""
        return self.backbone.blocks

    def _embed(self, pixels: Tensor) -> Tensor:
        return self.backbone.embed(pixels)

    def _output(self, state: EncoderState) -> EncoderOutput:
        features = tuple(self._as_map(tokens) for tokens in state.features)
        return EncoderOutput(self._as_map(self.backbone.norm(state.hidden)), features)

    @torch.no_grad()
    def initialise_randomly(self) -> None:
        """Does nothing: an untrained plain ViT is random already, its positions included."""

    def _as_map(self, tokens: Tensor) -> Tensor:
        """Drops the class token and reshapes ``(B, 1 + N, C)`` to ``(B, C, h, w)``."""
        return tokens[:, 1:].transpose(1, 2).unflatten(2, token_grid(self.image_size))

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
        positions = self.backbone.pos_embed.detach()
        patches = positions[:, 1:].unflatten(1, token_grid(self.image_size))
        patches = interpolate_positions(patches, token_grid(size), antialias=True)
        self.backbone.pos_embed = nn.Parameter(torch.cat([positions[:, :1], patches.flatten(1, 2)], dim=1))
        self.image_size = size


def _initialise(module: nn.Module) -> None:
    """Initialises linear layers and the patch projection from N(0, 0.02²) with zero bias, as usual for ViTs."""
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        nn.init.normal_(module.weight, std=INITIALISER_STD)
        if module.bias is not None:
            nn.init.zeros_(module.bias)

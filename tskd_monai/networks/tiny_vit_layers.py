"""Layers of TinyViT (Wu et al., "TinyViT", 2022), under the parameter names of LiteMedSAM's file.

Convolutions carry their batch normalisation, with the statistics of pre-training. All layers map ``(B, C, H, W)`` to
``(B, C', H', W')``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NORM_EPS = 1e-5
NECK_EPS = 1e-6
EXPANSION = 4
"""Ratio of the inner to the outer channels in convolutions and MLPs."""


class FixedNorm(nn.Module):
    """Parameters and statistics of a batch normalisation whose statistics never change.

    Args:
        channels: channels that are normalised.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))


class ConvNorm(nn.Module):
    """Convolution and batch normalisation by the statistics of pre-training, in training mode as in evaluation.

    With fixed statistics the normalisation is linear and is folded into the convolution: one pass over the maps, and
    none of its own kept for the backward pass. Batches of a few slices would estimate the statistics badly; full
    fine-tuning trains ``bn.weight`` and ``bn.bias`` and leaves the statistics as they are.

    Args:
        in_channels: channels in.
        out_channels: channels out.
        kernel_size: odd side of the kernel; the padding keeps the size of the map.
        stride: 1, or 2 to halve the resolution.
        groups: groups of the convolution.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 1, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        self.c = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=False)
        self.bn = FixedNorm(out_channels)
        # Statistics of mean 0 and variance 1 normalise nothing: only He's scale keeps an untrained network from fading.
        nn.init.kaiming_normal_(self.c.weight, nonlinearity="relu")

    def forward(self, maps: Tensor) -> Tensor:
        """Maps ``(B, in_channels, H, W)`` to ``(B, out_channels, H / stride, W / stride)``."""
        scale = self.bn.weight * torch.rsqrt(self.bn.running_var + NORM_EPS)
        shift = self.bn.bias - self.bn.running_mean * scale
        conv = self.c
        return F.conv2d(maps, conv.weight * scale.view(-1, 1, 1, 1), shift, conv.stride, conv.padding, 1, conv.groups)


class PatchEmbed(nn.Module):
    """Embeds each pixel by two 1x1 convolutions.

    Args:
        width: channels of the first stage.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.seq = nn.Sequential(ConvNorm(3, width // 2), nn.GELU(), ConvNorm(width // 2, width))

    def forward(self, images: Tensor) -> Tensor:
        """Maps ``(B, 3, H, W)`` to ``(B, width, H, W)``."""
        return self.seq(images)


class InvertedResidual(nn.Module):
    """Widens the channels, convolves each separately, narrows them, and adds the input (MBConv).

    Args:
        width: channels in and out.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = EXPANSION * width
        self.conv1 = ConvNorm(width, hidden)
        self.conv2 = ConvNorm(hidden, hidden, kernel_size=3, groups=hidden)
        self.conv3 = ConvNorm(hidden, width)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps ``(B, C, H, W)`` to ``(B, C, H, W)``."""
        hidden = F.gelu(self.conv2(F.gelu(self.conv1(maps))))
        return F.gelu(maps + self.conv3(hidden))


class Merge(nn.Module):
    """The layer between two stages: other channels, and with stride 2 half the resolution.

    Args:
        in_channels: channels of the stage before.
        out_channels: channels of the stage after.
        stride: 1 or 2.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(in_channels, out_channels)
        self.conv2 = ConvNorm(out_channels, out_channels, kernel_size=3, stride=stride, groups=out_channels)
        self.conv3 = ConvNorm(out_channels, out_channels)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps ``(B, in_channels, H, W)`` to ``(B, out_channels, H / stride, W / stride)``."""
        return self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(maps)))))


class Attention(nn.Module):
    """Self-attention of the tokens of a window: ``softmax(q k^T / sqrt(d) + b) v``.

    The bias ``b`` is learned for each head and each offset ``(|dy|, |dx|)`` between two tokens. Query, key and value
    of one head lie beside each other in the rows of ``qkv``: ``q1 k1 v1 q2 k2 v2 …``.

    Args:
        width: channels.
        num_heads: attention heads, a divisor of ``width``.
        window: side of the window in tokens.

    Attributes:
        qkv_groups: number of groups of query, key and value in the rows of ``qkv``.
    """

    offsets: Tensor

    def __init__(self, width: int, num_heads: int, window: int) -> None:
        super().__init__()
        self.qkv_groups = num_heads
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.attention_biases = nn.Parameter(torch.zeros(num_heads, window * window))
        self.register_buffer("offsets", offset_indices(window), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Maps the tokens of windows, ``(N, window², C)``, to ``(N, window², C)``."""
        qkv = self.qkv(self.norm(tokens)).unflatten(-1, (self.qkv_groups, 3, -1))
        query, key, value = qkv.permute(3, 0, 2, 1, 4).unbind(0)
        bias = self.attention_biases[:, self.offsets].to(query.dtype)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """LayerNorm and two linear layers with a GELU between them.

    Args:
        width: channels in and out.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.fc1 = nn.Linear(width, EXPANSION * width)
        self.fc2 = nn.Linear(EXPANSION * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Maps ``(..., C)`` to ``(..., C)``."""
        return self.fc2(F.gelu(self.fc1(self.norm(tokens))))


class Block(nn.Module):
    """Attention within windows, a 3x3 convolution of each channel, and an MLP.

    Args:
        width: channels.
        num_heads: attention heads.
        window: side of a window in tokens.
    """

    def __init__(self, width: int, num_heads: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.attn = Attention(width, num_heads, window)
        self.local_conv = ConvNorm(width, width, kernel_size=3, groups=width)
        self.mlp = Mlp(width)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps ``(B, C, H, W)`` to ``(B, C, H, W)``."""
        tokens = maps.permute(0, 2, 3, 1)
        tokens = tokens + self._attend(tokens)
        tokens = self.local_conv(tokens.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return (tokens + self.mlp(tokens)).permute(0, 3, 1, 2)

    def _attend(self, tokens: Tensor) -> Tensor:
        """Attends within windows of ``(B, H, W, C)``; the last ones are filled up with zeros."""
        batch, height, width, channels = tokens.shape
        side = self.window
        tokens = F.pad(tokens, (0, 0, 0, -width % side, 0, -height % side))
        grid = (tokens.shape[1] // side, tokens.shape[2] // side)
        windows = tokens.unflatten(2, (grid[1], side)).unflatten(1, (grid[0], side)).transpose(2, 3)
        mixed = self.attn(windows.reshape(-1, side * side, channels))
        mixed = mixed.view(batch, *grid, side, side, channels).transpose(2, 3)
        return mixed.reshape(batch, grid[0] * side, grid[1] * side, channels)[:, :height, :width]


class Stage(nn.Module):
    """Layers of one resolution, and the layer to the next stage; a container, its parts are run one by one.

    Args:
        blocks: layers of the stage.
        downsample: layer to the next stage; ``None`` for the last.
    """

    def __init__(self, blocks: Sequence[nn.Module], downsample: Merge | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of ``(B, C, H, W)``.

    Args:
        channels: channels C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, maps: Tensor) -> Tensor:
        """Maps ``(B, C, H, W)`` to ``(B, C, H, W)``."""
        tokens = F.layer_norm(maps.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, NECK_EPS)
        return tokens.permute(0, 3, 1, 2)


def offset_indices(window: int) -> Tensor:
    """Returns the index ``window * |dy| + |dx|`` of the offset between two tokens of a window.

    Args:
        window: side of the window in tokens.

    Returns:
        ``(window², window²)``, tokens in rows first.
    """
    positions = torch.arange(window)
    distance = (positions[:, None] - positions[None, :]).abs()
    index = window * distance[:, None, :, None] + distance[None, :, None, :]
    return index.reshape(window * window, window * window)

"""Light multi-level decoder: features of several encoder depths, progressive upsampling, a full-resolution stem.

A ViT with patches of 16 pixels keeps no detail below a patch. The stem processes the image itself and passes edges and
thin structures to the last upsampling steps, as the skip connections of a U-Net do (Ronneberger et al., 2015). Decoding
starts on the coarsest grid of the encoder, of stride 16, 8 or 4; finer features of a hierarchical encoder join at their
own stride.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tskd_monai.networks.encoders import EncoderOutput

CHANNELS_PER_GROUP = 8
STRIDES = (16, 8, 4)
"""Strides of features that can be decoded, coarse to fine."""


class ConvBlock(nn.Sequential):
    """3x3 convolution, GroupNorm, GELU.

    Args:
        in_channels: channels in.
        out_channels: channels out, a multiple of 8.
        stride: 1, or 2 to halve the resolution.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False),
            nn.GroupNorm(out_channels // CHANNELS_PER_GROUP, out_channels),
            nn.GELU(),
        )


class ImageStem(nn.Module):
    """Features of the image itself at full, half and quarter resolution.

    Args:
        in_channels: channels of the image.
        widths: channels at full, half and quarter resolution.
    """

    def __init__(self, in_channels: int, widths: tuple[int, int, int]) -> None:
        super().__init__()
        self.at_full = ConvBlock(in_channels, widths[0])
        self.at_half = ConvBlock(widths[0], widths[1], stride=2)
        self.at_quarter = ConvBlock(widths[1], widths[2], stride=2)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns features of ``(H, W)``, ``(H / 2, W / 2)`` and ``(H / 4, W / 4)`` from ``(B, C, H, W)``."""
        full = self.at_full(images)
        half = self.at_half(full)
        return full, half, self.at_quarter(half)


class FeatureFusion(nn.Module):
    """Sum of 1x1 projections of the encoder's maps, each token normalised first, then one convolution.

    Depths of a ViT differ in scale by a factor of ten; without the normalisation the last one dominates.
    (LayerNorm on the tokens also avoids GroupNorm, whose CPU backward crashes in torch 2.13 on channels-last input
    that needs no gradient, which is what a frozen encoder returns.)

    Args:
        channels: channels of each map.
        out_channels: channels of the fused map.
    """

    def __init__(self, channels: Sequence[int], out_channels: int) -> None:
        super().__init__()
        self.projections = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, out_channels)) for width in channels
        )
        self.mix = ConvBlock(out_channels, out_channels)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps several ``(B, C_l, h, w)`` to ``(B, out_channels, h, w)``."""
        projected = [
            projection(entry.permute(0, 2, 3, 1)) for projection, entry in zip(self.projections, maps, strict=True)
        ]
        return self.mix(torch.stack(projected).sum(dim=0).permute(0, 3, 1, 2).contiguous())


class UpStep(nn.Module):
    """Doubles the resolution: 1x1 projection, bilinear upsampling, plus the skip connection, one convolution.

    The projection comes before the upsampling and the skip is added, not concatenated: at full resolution that
    halves the time of a training step.

    Args:
        in_channels: channels in.
        out_channels: channels out and of the skip connection, a multiple of 8.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(in_channels, out_channels, kernel_size=1)
        self.mix = ConvBlock(out_channels, out_channels)

    def forward(self, maps: Tensor, skip: Tensor | None = None) -> Tensor:
        """Maps ``(B, in_channels, h, w)`` to ``(B, out_channels, 2 h, 2 w)``, the size of ``skip``."""
        maps = F.interpolate(self.project(maps), scale_factor=2.0, mode="bilinear", align_corners=False)
        return self.mix(maps if skip is None else maps + skip)


class LightDecoder(nn.Module):
    """Class logits at image size from an encoder's output and the image.

    Args:
        feature_channels: channels of each of the encoder's ``features``.
        embed_dim: channels of the encoder's ``image_embeddings``.
        num_classes: number of classes, background included.
        in_channels: channels of the image given to the stem (3 after the encoder's normalisation).
        widths: channels at 1/16, 1/8, 1/4, 1/2 and full resolution, multiples of 8.
        feature_strides: pixels per position of each of the ``features``, out of 16, 8 and 4; by default 16 for all.
        embed_stride: pixels per position of the ``image_embeddings``.

    Raises:
        ValueError: if there are fewer than two classes, a width is not a multiple of 8 or a stride is another.
    """

    def __init__(
        self,
        feature_channels: Sequence[int],
        embed_dim: int,
        num_classes: int,
        in_channels: int = 3,
        widths: tuple[int, int, int, int, int] = (128, 96, 64, 32, 16),
        feature_strides: Sequence[int] | None = None,
        embed_stride: int = STRIDES[0],
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"Expected at least 2 classes, background included, found num_classes={num_classes}.")
        if any(width % CHANNELS_PER_GROUP for width in widths):
            raise ValueError(f"Expected decoder widths as multiples of {CHANNELS_PER_GROUP}, found {tuple(widths)}.")
        *coarse_widths, half, full = widths
        quarter = coarse_widths[-1]
        if feature_strides is None:
            feature_strides = (STRIDES[0],) * len(feature_channels)
        self.strides = (*feature_strides, embed_stride)
        if set(self.strides) - set(STRIDES):
            raise ValueError(f"Expected features at strides out of {STRIDES}, found {self.strides}.")
        channels = (*feature_channels, embed_dim)
        fusions = {
            stride: FeatureFusion([channels[index] for index in self._at(stride)], width)
            for stride, width in zip(STRIDES, coarse_widths, strict=True)
            if stride in self.strides
        }
        self.coarsest = max(fusions)
        self.fusion = fusions.pop(self.coarsest)
        self.finer_fusions = nn.ModuleDict({str(stride): fusion for stride, fusion in fusions.items()})
        self.stem = ImageStem(in_channels, (full, half, quarter))
        self.to_eighth = UpStep(coarse_widths[0], coarse_widths[1]) if self.coarsest > STRIDES[1] else None
        self.to_quarter = UpStep(coarse_widths[1], quarter) if self.coarsest > STRIDES[2] else None
        self.to_half = UpStep(quarter, half)
        self.to_full = UpStep(half, full)
        self.classify = nn.Conv2d(full, num_classes, kernel_size=1)

    def forward(self, encoded: EncoderOutput, images: Tensor) -> Tensor:
        """Decodes the output of an encoder.

        Args:
            encoded: the encoder's output for the images.
            images: ``(B, in_channels, H, W)``, normalised.

        Returns:
            Logits ``(B, num_classes, H, W)``.
        """
        full, half, quarter = self.stem(images)
        features = (*encoded.features, encoded.image_embeddings)
        maps = self.fusion([features[index] for index in self._at(self.coarsest)])
        if self.to_eighth is not None:
            maps = self.to_eighth(maps, self._finer(features, STRIDES[1]))
        fused = self._finer(features, STRIDES[2])
        quarter = quarter if fused is None else quarter + fused
        maps = maps + quarter if self.to_quarter is None else self.to_quarter(maps, quarter)
        maps = self.to_half(maps, half)
        return self.classify(self.to_full(maps, full))

    def _at(self, stride: int) -> list[int]:
        """Returns the indices of the encoder's maps with a stride; the last map are the image embeddings."""
        return [index for index, own in enumerate(self.strides) if own == stride]

    def _finer(self, features: Sequence[Tensor], stride: int) -> Tensor | None:
        """Returns the fused features of a stride finer than the coarsest; None if there are none."""
        if str(stride) not in self.finer_fusions:
            return None
        return self.finer_fusions[str(stride)]([features[index] for index in self._at(stride)])

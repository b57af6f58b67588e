"""MONAI's U-Nets as students: `UNet` at fixed sizes, and `DynUNet` planned for the size of the images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from monai.networks.nets import DynUNet, UNet
from torch import nn

from tskd_monai.networks.features import NetworkPart

SMALLEST_SIDE = 4
"""Smallest side of the deepest feature map of a planned U-Net, in pixels."""
FIRST_CHANNELS = 32
MAX_CHANNELS = 512
FEATURE_LEVEL = 3
"""Halvings before the features that are distilled; an image size that allows fewer is refused."""


@dataclass(frozen=True)
class CompactUNet:
    """Size of a compact U-Net.

    Attributes:
        channels: channels of each level; every level but the last halves the resolution.
        num_res_units: residual convolutions of each level.
    """

    channels: tuple[int, ...]
    num_res_units: int
    monai_name: ClassVar[str] = "UNet"

    @property
    def feature_layer(self) -> str:
        """Name of the deepest layer, whose output is distilled."""
        return ".".join(["model"] + ["1.submodule"] * (len(self.channels) - 1))

    @property
    def feature_channels(self) -> int:
        """Channels of that layer's output."""
        return self.channels[-1]

    def build(self, in_channels: int, out_channels: int, image_size: tuple[int, int]) -> UNet:
        """Returns the network of `arguments`, images (B, C, H, W) to logits (B, K, H, W)."""
        return UNet(**self.arguments(in_channels, out_channels, image_size))

    def arguments(self, in_channels: int, out_channels: int, image_size: tuple[int, int]) -> dict[str, Any]:
        """Returns the arguments of MONAI's `UNet`, as JSON holds them.

        Instance norm keeps a single slice's result independent of its batch.

        Args:
            in_channels: number of input channels C.
            out_channels: number of classes K, background included.
            image_size: (H, W) in pixels.

        Raises:
            ValueError: when a side is not divisible by the network's downsampling factor.
        """
        factor = 2 ** (len(self.channels) - 1)
        if any(side % factor for side in image_size):
            raise ValueError(
                f"Expected an image_size of multiples of {factor} for a U-Net of {len(self.channels)} levels, found "
                f"{tuple(image_size)}; choose the task's image_size accordingly."
            )
        return {
            "spatial_dims": 2,
            "in_channels": in_channels,
            "out_channels": out_channels,
            "channels": list(self.channels),
            "strides": [2] * (len(self.channels) - 1),
            "num_res_units": self.num_res_units,
            "norm": ["instance", {"affine": True}],
            "act": "LEAKYRELU",
        }

    def encoder(self, network: nn.Module) -> NetworkPart:
        """Returns the contracting path down to the deepest layer, images to (B, F, h, w)."""
        layers, level = [], network.get_submodule("model")
        for _ in self.channels[1:]:
            layers.append(level.get_submodule("0"))
            level = level.get_submodule("1.submodule")
        return NetworkPart(nn.Sequential(*layers, level), self.channels[-1])

    def trunk(self, network: nn.Module) -> NetworkPart:
        """Returns all but the last block, images to (B, F, H / 2, W / 2)."""
        parts = (network.get_submodule("model.0"), network.get_submodule("model.1"))
        return NetworkPart(nn.Sequential(*parts), 2 * self.channels[0])  # skip connection and expanding path


@dataclass(frozen=True)
class PlannedUNet:
    """MONAI's DynUNet, planned for 2D images: the self-configuring baseline.

    Sides are halved as long as both stay whole and at least 4 pixels long; 32 channels are doubled at each level up to
    512. A level has two 3x3 convolutions, each with instance norm and leaky ReLU. There is no deep supervision.
    Source: Isensee et al. 2021 (nnU-Net), supplementary note 4.
    """

    monai_name: ClassVar[str] = "DynUNet"

    @property
    def feature_layer(self) -> str:
        """Name of the layer whose output is distilled: at an eighth of the resolution, all deeper levels included.

        The deepest level has hardly more than 4x4 positions, too few to distil.
        """
        return ".".join(["skip_layers"] + ["next_layer"] * FEATURE_LEVEL)

    @property
    def feature_channels(self) -> int:
        """Channels of that layer's output."""
        return _channels(FEATURE_LEVEL)

    def build(self, in_channels: int, out_channels: int, image_size: tuple[int, int]) -> DynUNet:
        """Returns the network of `arguments`, images (B, C, H, W) to logits (B, K, H, W)."""
        return DynUNet(**self.arguments(in_channels, out_channels, image_size))

    def arguments(self, in_channels: int, out_channels: int, image_size: tuple[int, int]) -> dict[str, Any]:
        """Returns the arguments of MONAI's `DynUNet`, as JSON holds them.

        Args:
            in_channels: number of input channels C.
            out_channels: number of classes K, background included.
            image_size: (H, W) in pixels.

        Raises:
            ValueError: when a side cannot be halved three times.
        """
        halvings = count_halvings(image_size)
        strides = [1] + [2] * halvings
        return {
            "spatial_dims": 2,
            "in_channels": in_channels,
            "out_channels": out_channels,
            "kernel_size": [3] * len(strides),
            "strides": strides,
            "upsample_kernel_size": strides[1:],
            "filters": [_channels(level) for level in range(len(strides))],
            "norm_name": ["INSTANCE", {"affine": True}],
            "act_name": ["leakyrelu", {"inplace": True, "negative_slope": 0.01}],
        }

    def encoder(self, network: nn.Module) -> NetworkPart:
        """Returns the contracting path down to the deepest layer, images to (B, F, h, w)."""
        levels = [network.get_submodule("input_block"), *network.get_submodule("downsamples").children()]
        bottleneck = network.get_submodule("bottleneck")
        return NetworkPart(nn.Sequential(*levels, bottleneck), _channels(len(levels)))

    def trunk(self, network: nn.Module) -> NetworkPart:
        """Returns all but the last block, images to (B, F, H / 2, W / 2)."""
        parts = (network.get_submodule("input_block"), network.get_submodule("skip_layers.next_layer"))
        return NetworkPart(nn.Sequential(*parts), _channels(1))


def count_halvings(image_size: tuple[int, int]) -> int:
    """Returns how often both sides can be halved, staying whole and at least 4 pixels long.

    Raises:
        ValueError: when it is fewer than three times.
    """
    height, width = image_size
    halvings = 0
    while height % 2 == width % 2 == 0 and min(height, width) // 2 >= SMALLEST_SIDE:
        height, width, halvings = height // 2, width // 2, halvings + 1
    if halvings < FEATURE_LEVEL:
        smallest = SMALLEST_SIDE * 2**FEATURE_LEVEL
        raise ValueError(
            f"Expected an image_size of multiples of {2**FEATURE_LEVEL} from {smallest} pixels for planned_unet, found "
            f"{tuple(image_size)}; choose the task's image_size accordingly."
        )
    return halvings


def _channels(level: int) -> int:
    return min(FIRST_CHANNELS * 2**level, MAX_CHANNELS)


SIZES: Mapping[str, CompactUNet | PlannedUNet] = {
    "compact_unet_small": CompactUNet((16, 32, 64, 128), 1),  # 0.2 M parameters with 5 classes
    "compact_unet_base": CompactUNet((32, 64, 128, 256), 2),  # 1.6 M
    "unet_large": CompactUNet((36, 72, 144, 288, 512), 2),  # 7.3 M: the control that is not distilled
    "planned_unet": PlannedUNet(),  # 20.6 M for images of 128 pixels: the self-configuring baseline
}

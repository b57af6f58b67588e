"""A compact U-Net that sees where in the image a pixel lies: two further channels hold its row and column.

A convolutional network learns slowly which of two like structures is the left one. Source: Liu et al., "An intriguing
failing of convolutional neural networks and the CoordConv solution", NeurIPS 2018.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from monai.networks.nets import UNet
from torch import Tensor, nn

from tskd_monai.networks.features import NetworkPart
from tskd_monai.networks.unets import CompactUNet

COORDINATES = 2
STRIDE = 16
"""An input has sides that are multiples of it."""


class WithCoordinates(nn.Module):
    """Adds the row and the column of each pixel as last channels, (B, C, H, W) to (B, C + 2, H, W).

    Args:
        image_size: rows and columns over which they run from -1 to 1, with 0 in the centre; further out they go on.
    """

    def __init__(self, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.image_size = image_size

    def forward(self, images: Tensor) -> Tensor:
        """Returns images (B, C, H, W) with two further channels."""
        batch, _, height, width = images.shape
        rows, columns = (
            (2 * torch.arange(side, dtype=images.dtype, device=images.device) - (side - 1)) / (size - 1)
            for side, size in zip((height, width), self.image_size, strict=True)
        )
        shape = (batch, 1, height, width)
        return torch.cat([images, rows[:, None].expand(shape), columns.expand(shape)], dim=1)


class CoordUNet(nn.Module):
    """MONAI's U-Net on images with coordinates, images (B, C, H, W) to logits (B, K, H, W).

    Args:
        network: takes C + 2 channels.
        image_size: see `WithCoordinates`.
    """

    def __init__(self, network: UNet, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.coordinates = WithCoordinates(image_size)
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits (B, K, H, W) of images (B, C, H, W)."""
        logits: Tensor = self.network(self.coordinates(images))
        return logits

    def whole_size(self, size: Sequence[int]) -> tuple[int, int]:
        """Returns the rows and columns of an input that holds a whole image of this size.

        A part of an image would get the coordinates of another part, so that a larger image is not cut into windows.
        """
        trained = self.coordinates.image_size
        height, width = (max(most, -(-side // STRIDE) * STRIDE) for side, most in zip(size, trained, strict=True))
        return height, width


@dataclass(frozen=True)
class CoordUNetSize:
    """Size of a compact U-Net with coordinates.

    Attributes:
        unet: size of the network inside.
    """

    unet: CompactUNet

    @property
    def feature_layer(self) -> str:
        """Name of the deepest layer, whose output is distilled."""
        return f"network.{self.unet.feature_layer}"

    @property
    def feature_channels(self) -> int:
        """Channels of that layer's output."""
        return self.unet.feature_channels

    def build(self, in_channels: int, out_channels: int, image_size: tuple[int, int]) -> CoordUNet:
        """Returns the network with random weights; see `CompactUNet.arguments` for what is refused."""
        return CoordUNet(self.unet.build(in_channels + COORDINATES, out_channels, image_size), image_size)

    def encoder(self, network: nn.Module) -> NetworkPart:
        """Returns the contracting path down to the deepest layer, images to (B, F, h, w)."""
        return _after_coordinates(network, self.unet.encoder(network.get_submodule("network")))

    def trunk(self, network: nn.Module) -> NetworkPart:
        """Returns all but the last block, images to (B, F, H / 2, W / 2)."""
        return _after_coordinates(network, self.unet.trunk(network.get_submodule("network")))


def _after_coordinates(network: nn.Module, part: NetworkPart) -> NetworkPart:
    return NetworkPart(nn.Sequential(network.get_submodule("coordinates"), part.module), part.channels)


SIZES: Mapping[str, CoordUNetSize] = {"coord_unet_small": CoordUNetSize(CompactUNet((16, 32, 64, 128), 1))}  # 0.2 M

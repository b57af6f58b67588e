"""MONAI's U-Net at named sizes."""

from __future__ import annotations

from dataclasses import dataclass

from monai.networks.nets import UNet
from torch import nn

from tskd_monai.networks.network_part import NetworkPart


@dataclass(frozen=True)
class CompactUNet:
    """Size of a compact U-Net.

    Attributes:
        channels: of each level; every level but the last halves the resolution.
        num_res_units: residual convolutions a level.
    """

    channels: tuple[int, ...]
    num_res_units: int

    @property
    def feature_layer(self) -> str:
        """Name of the deepest layer, whose output is distilled."""
        return ".".join(["model"] + ["1.submodule"] * (len(self.channels) - 1))

    @property
    def feature_channels(self) -> int:
        """Channels of that layer's output."""
        return self.channels[-1]

    def build(self, in_channels: int, out_channels: int, image_size: tuple[int, int]) -> UNet:
        """Returns the network, images (B, C, H, W) to logits (B, K, H, W).

        Instance norm keeps a single slice's result independent of its batch.

        Args:
            in_channels: C.
            out_channels: K, with background.
            image_size: (H, W) in pixels.

        Raises:
            ValueError: when a side cannot be halved as often as the network does.
        """
        factor = 2 ** (len(self.channels) - 1)
        if any(side % factor for side in image_size):
            raise ValueError(
                f"Expected an image_size of multiples of {factor} for a U-Net of {len(self.channels)} levels, found "
                f"{tuple(image_size)}; choose the task's image_size accordingly."
            )
        return UNet(
            spatial_dims=2,
            in_channels=in_channels,
            out_channels=out_channels,
            channels=self.channels,
            strides=(2,) * (len(self.channels) - 1),
            num_res_units=self.num_res_units,
            norm=("instance", {"affine": True}),
            act="LEAKYRELU",
        )

    def encoder(self, network: nn.Module) -> NetworkPart:
        """Returns the way down to the deepest layer, images to (B, F, h, w)."""
        layers, level = [], network.get_submodule("model")
        for _ in self.channels[1:]:
            layers.append(level.get_submodule("0"))
            level = level.get_submodule("1.submodule")
        return NetworkPart(nn.Sequential(*layers, level), self.channels[-1])

    def trunk(self, network: nn.Module) -> NetworkPart:
        """Returns all but the last block, images to (B, F, H / 2, W / 2)."""
        parts = (network.get_submodule("model.0"), network.get_submodule("model.1"))
        return NetworkPart(nn.Sequential(*parts), 2 * self.channels[0])  # the skip connection's and the way up's

"""Students: small networks that MONAI provides, at named sizes."""

from __future__ import annotations

from dataclasses import dataclass

from monai.networks.nets import UNet


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


STUDENTS = {
    "compact_unet_small": CompactUNet((16, 32, 64, 128), 1),  # 0.2 M parameters with 5 classes
    "compact_unet_base": CompactUNet((32, 64, 128, 256), 2),  # 1.6 M
}


def student_size(name: str) -> CompactUNet:
    """Returns the size of a named student.

    Raises:
        ValueError: when there is none of that name.
    """
    if name not in STUDENTS:
        raise ValueError(f"Expected a student among {sorted(STUDENTS)}, found {name}.")
    return STUDENTS[name]


def build_student(name: str, in_channels: int, out_channels: int) -> UNet:
    """Returns a student, images (B, C, H, W) to logits (B, K, H, W); H and W are multiples of 8.

    Instance norm keeps a single slice's result independent of its batch.

    Args:
        name: of a student, for example `compact_unet_small`.
        in_channels: C.
        out_channels: K, with background.
    """
    size = student_size(name)
    return UNet(
        spatial_dims=2,
        in_channels=in_channels,
        out_channels=out_channels,
        channels=size.channels,
        strides=(2,) * (len(size.channels) - 1),
        num_res_units=size.num_res_units,
        norm=("instance", {"affine": True}),
        act="LEAKYRELU",
    )

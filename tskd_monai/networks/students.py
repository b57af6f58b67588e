"""Students: small networks at named sizes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from tskd_monai.networks.unets import CompactUNet, PlannedUNet
from tskd_monai.networks.vit_student import CompactViT

Student = CompactUNet | PlannedUNet | CompactViT

STUDENTS: dict[str, Student] = {
    "compact_unet_small": CompactUNet((16, 32, 64, 128), 1),  # 0.2 M parameters with 5 classes
    "compact_unet_base": CompactUNet((32, 64, 128, 256), 2),  # 1.6 M
    "unet_large": CompactUNet((36, 72, 144, 288, 512), 2),  # 7.3 M: the control that is not distilled
    "planned_unet": PlannedUNet(),  # 20.6 M for images of 128 pixels: the control that configures itself
    "vit_tiny": CompactViT("vit_tiny_patch16", 192),  # 5.9 M
}


def student_size(name: str) -> Student:
    """Returns the size of a named student, with the layer of it that is distilled.

    Raises:
        ValueError: when there is none of that name.
    """
    if name not in STUDENTS:
        raise ValueError(f"Expected a student among {sorted(STUDENTS)}, found {name}.")
    return STUDENTS[name]


def build_student(name: str, in_channels: int, out_channels: int, image_size: Sequence[int]) -> nn.Module:
    """Returns a student with random weights, images (B, C, H, W) to logits (B, K, H, W).

    Args:
        name: of a student, for example `compact_unet_small`.
        in_channels: C.
        out_channels: K, with background.
        image_size: (H, W) of the task, in pixels.

    Raises:
        ValueError: when the name is unknown, or the network cannot take images of that size.
    """
    height, width = image_size
    return student_size(name).build(in_channels, out_channels, (height, width))

"""Source coordinates of the pixels of an augmented image."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.transforms import Transform
from torch import Tensor
from torch.nn import functional as F

INSIDE = 0.5
OUTSIDE_POSITION = 2.0  # beyond the image, whose edges are at -1 and 1


def homogeneous_coordinates(height: int, width: int) -> Tensor:
    """Returns `(x, y, 1)` of each pixel, (3, H, W); x and y go from -1 to 1 between the image's edges.

    Any spatial transform of an image can be applied to these maps as well. The third map then has the weight of the
    image where the transform pads with zeros or interpolates with them; dividing by it removes their influence.
    """
    rows = (2 * torch.arange(height) + 1) / height - 1
    columns = (2 * torch.arange(width) + 1) / width - 1
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([x, y, torch.ones_like(x)])


class AddCoordinatesd(Transform):
    """Adds the `homogeneous_coordinates` of an image to its item, for the random transforms that follow.

    Args:
        key: key of the image (C, H, W).
        output_key: key of the coordinates (3, H, W).
    """

    def __init__(self, key: str = "image", output_key: str = "coordinates") -> None:
        self.key, self.output_key = key, output_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns a copy of the item with the coordinates."""
        return {**data, self.output_key: homogeneous_coordinates(*data[self.key].shape[-2:])}


def follow(coordinates: Tensor, maps: Tensor, padding_mode: str = "zeros") -> Tensor:
    """Returns maps of an image resampled to its augmented copy, bilinearly.

    Args:
        coordinates: (B, 3, H, W), transformed together with the image.
        maps: (B, C, h, w) of the original image, at any resolution.
        padding_mode: `zeros` or `border`: values outside the original image.

    Returns:
        Maps (B, C, H, W).
    """
    weight = coordinates[:, 2:]
    position = coordinates[:, :2] / weight.clamp_min(INSIDE)
    if padding_mode == "zeros":
        position = torch.where(weight >= INSIDE, position, OUTSIDE_POSITION)
    grid = position.movedim(1, -1)
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode=padding_mode, align_corners=False)

"""Neighbouring slices of a volume as further input channels of a student (2.5D).

The channels of slice `i` are those of the slices `i - k` to `i + k` of the volume in the task's orientation, in this
order; each slice has all of its own channels. Beyond an end of the volume, its last slice is repeated.
"""

from __future__ import annotations

import torch
from torch import Tensor


def neighbour_indices(index: int, depth: int, neighbours: int) -> list[int]:
    """Returns the indices of a slice and its neighbours, `2 * neighbours + 1` of them in order.

    Args:
        index: index of the slice.
        depth: number of slices of the volume.
        neighbours: slices on each side.
    """
    return [min(max(other, 0), depth - 1) for other in range(index - neighbours, index + neighbours + 1)]


def with_neighbours(volume: Tensor, neighbours: int, chosen: range | None = None) -> Tensor:
    """Returns slices with their neighbours as channels, (..., (2 neighbours + 1) C, H, W, S).

    Args:
        volume: (..., C, H, W, D).
        neighbours: slices on each side; 0 returns the slices alone.
        chosen: the S consecutive slices to return; None: all.
    """
    if not neighbours and chosen is None:
        return volume
    depth = volume.shape[-1]
    slices = range(depth) if chosen is None else chosen
    positions = torch.tensor([neighbour_indices(index, depth, neighbours) for index in slices])
    offsets = positions.to(volume.device).unbind(dim=1)
    return torch.cat([volume.index_select(-1, indices) for indices in offsets], dim=-4)


def centre_slice(images: Tensor, channels: int) -> Tensor:
    """Returns the slice without its neighbours, (..., C, H, W).

    Args:
        images: (..., (2 neighbours + 1) C, H, W).
        channels: channels C of one slice.
    """
    return images.narrow(-3, (images.shape[-3] - channels) // 2, channels)

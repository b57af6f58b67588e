"""Positions of an image's voxels on the network's grid, and label maps resampled to them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor

from tskd_monai.transforms.labels import largest_class
from tskd_monai.transforms.slice_spacing import neighbours, resample_plane

TOLERANCE_VOXELS = 0.01
"""Largest deviation, at the far end of the image, from a grid with the same axes and slices."""


@dataclass(frozen=True)
class ImageGrid:
    """An image's voxels on the network's grid, which has the image's slices and permuted axes.

    Attributes:
        shape: voxels along the image's three array axes.
        axes: array axes of the image along the network's slices, rows and columns.
        slices: index in the image of each of the network's slices, (D,) int64.
        rows: position among the network's rows of each image index along `axes[1]`, (H,) float32.
        columns: position among the network's columns of each image index along `axes[2]`, (W,) float32.
    """

    shape: tuple[int, int, int]
    axes: tuple[int, int, int]
    slices: Tensor
    rows: Tensor
    columns: Tensor

    def empty_label_map(self, dtype: torch.dtype) -> Tensor:
        """Returns zeros (slices, rows, columns) of the image's size, stored in that order."""
        return torch.zeros([self.shape[axis] for axis in self.axes], dtype=dtype)

    def to_image_axes(self, label_map: Tensor) -> Tensor:
        """Returns a label map (slices, rows, columns) as a view along the image's array axes."""
        return label_map.permute([self.axes.index(axis) for axis in range(3)])


def image_grid(image: Tensor) -> ImageGrid:
    """Returns the positions of an image's voxels on the grid of its `preprocessing`.

    Args:
        image: (C, H, W, D), with the metadata `original_affine` and `spatial_shape` of `VolumeReader`.

    Raises:
        TypeError: when the image has no metadata.
        ValueError: when the two grids differ by more than the order, direction and spacing of axes.
    """
    if not isinstance(image, MetaTensor) or not {"original_affine", "spatial_shape"} <= set(image.meta):
        raise TypeError(
            f"Expected an image with original_affine and spatial_shape, found {type(image).__name__} without; "
            "load it with tskd_monai.transforms.pipelines."
        )
    shape = tuple(int(size) for size in np.asarray(image.meta["spatial_shape"]))
    to_network = np.linalg.solve(
        np.asarray(image.affine, dtype=np.float64), np.asarray(image.meta["original_affine"], dtype=np.float64)
    )
    scale, offset = to_network[:3, :3], to_network[:3, 3]
    row, column, depth = (int(axis) for axis in np.abs(scale).argmax(axis=1))
    positions = [np.arange(shape[axis]) * scale[i, axis] + offset[i] for i, axis in enumerate((row, column, depth))]
    found = np.rint(positions[2])
    stray = scale.copy()
    stray[(0, 1, 2), (row, column, depth)] = 0
    same_axes = {row, column, depth} == {0, 1, 2} and np.abs(stray * shape).max() < TOLERANCE_VOXELS
    same_slices = (
        np.abs(positions[2] - found).max() < TOLERANCE_VOXELS
        and np.array_equal(np.sort(found), np.arange(image.shape[-1]))  # every slice once
    )
    if not (same_axes and same_slices):
        raise ValueError(
            f"Expected the image's {shape} voxels to be the network's {tuple(image.shape[1:])} but for order, "
            f"direction and spacing in the plane, found the mapping {to_network[:3].round(4).tolist()}; "
            "preprocess with tskd_monai.transforms.pipelines."
        )
    return ImageGrid(
        (shape[0], shape[1], shape[2]),
        (depth, row, column),
        torch.from_numpy(np.argsort(found)),
        torch.from_numpy(positions[0]).float(),
        torch.from_numpy(positions[1]).float(),
    )


def nearest_labels(logits: Tensor, rows: Tensor, columns: Tensor, values: Tensor) -> Tensor:
    """Returns the label value of the pixel nearest to each position, (B, H, W).

    Args:
        logits: (B, K, h, w).
        rows: positions among h, (H,), clamped to the border.
        columns: positions among w, (W,).
        values: label value of each class, (K,); the result has their type.
    """
    labels = largest_class(logits.unbind(dim=1), values)
    return resample_plane(labels, rows, columns, "nearest")


def linear_labels(logits: Tensor, rows: Tensor, columns: Tensor, values: Tensor) -> Tensor:
    """Returns the label value of the largest logit at each position, with linearly interpolated logits, (B, H, W).

    Where the four pixels around a position have the same class, interpolation cannot change it: its logit is the
    largest in all four. Only positions along the borders of organs are interpolated, one class after the other, so that
    neither time nor memory is that of K classes at full size.

    Args:
        logits: (B, K, h, w).
        rows: positions among h, (H,), clamped to the border.
        columns: positions among w, (W,).
        values: label value of each class, (K,), all distinct; the result has their type.
    """
    labels = largest_class(logits.unbind(dim=1), values)
    (top, bottom, down), (left, right, across) = (
        neighbours(positions, size) for positions, size in zip((rows, columns), labels.shape[1:], strict=True)
    )
    # Columns first: rows are then copied in one piece.
    found = labels.index_select(2, left).index_select(1, top)
    mixed = _mixed_cells(labels).index_select(2, left).index_select(1, top)
    image, row, column = mixed.nonzero(as_tuple=True)
    width, plane = logits.shape[3], logits.shape[2] * logits.shape[3]
    start = image * (logits.shape[1] * plane)
    corners = [start + y[row] * width + x[column] for y in (top, bottom) for x in (left, right)]
    flat, shares = logits.reshape(-1), (down[row], across[column])
    interpolated = (_interpolated(flat, corners, number * plane, *shares) for number in range(logits.shape[1]))
    found[image, row, column] = largest_class(interpolated, values)
    return found


def _mixed_cells(labels: Tensor) -> Tensor:
    """Returns for each pixel (B, h, w) whether it and the three after it differ in class."""
    down, across = (torch.zeros_like(labels, dtype=torch.bool) for _ in range(2))
    down[:, :-1] = labels[:, 1:] != labels[:, :-1]
    across[:, :, :-1] = labels[:, :, 1:] != labels[:, :, :-1]
    mixed = down | across
    mixed[:, :-1] |= across[:, 1:]
    return mixed


def _interpolated(flat: Tensor, corners: list[Tensor], offset: int, down: Tensor, across: Tensor) -> Tensor:
    """Returns one class's logit at each position, (N,).

    Args:
        flat: logits, (B * K * h * w,).
        corners: indices of the four pixels around each position in the plane of class 0, (N,) each.
        offset: offset from that plane to the plane of the class.
        down: weight of the lower two pixels, (N,).
        across: weight of the right two pixels, (N,).
    """
    upper_left, upper_right, lower_left, lower_right = (flat[corner + offset] for corner in corners)
    upper = torch.lerp(upper_left, upper_right, across)
    return torch.lerp(upper, torch.lerp(lower_left, lower_right, across), down)

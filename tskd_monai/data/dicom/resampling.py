"""Resampling between the slices of a tilted or incomplete series and its regular orthogonal grid."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from tskd_monai.data.dicom.geometry import SeriesGrid

LINEAR = 1


def to_grid(slices: np.ndarray, grid: SeriesGrid) -> np.ndarray:
    """Returns slices resampled to their grid: in-plane shifts and missing slices are interpolated linearly.

    Args:
        slices: voxels as scanned, float32 (columns, rows, n).
        grid: grid of the series.

    Returns:
        float32 of the grid's shape; voxels outside of all slices have the lowest value.
    """
    lowest = float(slices.min())
    volume = np.full(grid.shape, lowest, dtype=np.float32)
    columns, rows = slices.shape[:2]
    for position, (index, offset) in enumerate(zip(grid.indices, grid.offsets, strict=True)):
        plane = np.full(grid.shape[:2], lowest, dtype=np.float32)
        plane[:columns, :rows] = slices[:, :, position]
        if offset.any():
            ndimage.shift(plane, offset, output=volume[:, :, index], order=LINEAR, cval=lowest)
        else:
            volume[:, :, index] = plane
    missing = np.setdiff1d(np.arange(grid.shape[2]), grid.indices)
    volume[:, :, missing] = (volume[:, :, missing - 1] + volume[:, :, missing + 1]) / 2
    return volume

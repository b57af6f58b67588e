"""An image as slices for display: the order and direction of axes of a radiologist's view, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

from tskd_monai.annotation.prompts import Point
from tskd_monai.data.grid import body_spacing, reoriented
from tskd_monai.data.image_file import is_image_file
from tskd_monai.data.planning.rules import VIEWS
from tskd_monai.data.volume_reader import VolumeReader
from tskd_monai.files.checksum import file_sha256
from tskd_monai.transforms.intensity import ScaleToUnitRanged

CT_WINDOW = (-160.0, 240.0)
"""Soft tissue, HU: the window of a CT before a task is planned."""


@dataclass(frozen=True)
class SliceView:
    """The slices of an image.

    Attributes:
        shape: voxels along the array axes of the image's file.
        affine: from array indices to RAS mm; the identity for a 2D image.
        flat: whether the image is a 2D image file, whose array axes are rows and columns.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray
    flat: bool

    @property
    def slice_axis(self) -> int:
        """Axis of the body along which slices lie, by the rule of planning: that of the largest spacing."""
        spacing = body_spacing(self.affine)
        return int(np.argmax(spacing)) if spacing.max() > 1.01 * spacing[2] else 2

    @property
    def viewer_shape(self) -> tuple[int, int, int]:
        """Image size along the x, y and z of viewers."""
        return (self.shape[1], self.shape[0], 1) if self.flat else self.shape

    def to_slices(self, array: np.ndarray) -> np.ndarray:
        """Returns an array of the image's axes, and others after them, as (rows, columns, slices, ...)."""
        return array if self.flat else np.ascontiguousarray(reoriented(array, self.affine, VIEWS[self.slice_axis]))

    def from_slices(self, slices: np.ndarray) -> np.ndarray:
        """Returns slices (rows, columns, slices) along the image's array axes."""
        if self.flat:
            return slices
        back = ornt_transform(axcodes2ornt(VIEWS[self.slice_axis]), io_orientation(self.affine))
        return np.ascontiguousarray(apply_orientation(slices, back))

    def positions(self, points: Sequence[Point]) -> np.ndarray:
        """Returns points of a viewer as row, column and slice, (N, 3)."""
        found = np.asarray(points, dtype=float).reshape(-1, 3)
        if self.flat:
            return found[:, [1, 0, 2]]
        turn = ornt_transform(io_orientation(self.affine), axcodes2ornt(VIEWS[self.slice_axis]))
        to_view = np.linalg.inv(inv_ornt_aff(turn, self.shape))
        return np.asarray(found @ to_view[:3, :3].T + to_view[:3, 3])


@dataclass(frozen=True)
class SlicedImage:
    """An image for annotation.

    Attributes:
        name: name of the file, for messages.
        key: hash of the file's content, for the cache.
        view: the image's slices.
        values: (C, rows, columns, slices) in [0, 1], C 1 or 3.
    """

    name: str
    key: str
    view: SliceView
    values: torch.Tensor


def read_sliced_image(path: str | Path, modality: str = "") -> SlicedImage:
    """Returns an image with values in [0, 1]: colours, a window of CT, or percentiles of each volume.

    Args:
        path: any image that the project reads as one file.
        modality: `CT`, or another.

    Raises:
        FileNotFoundError, ValueError: see `VolumeReader`.
    """
    path = Path(path)
    voxels, metadata = VolumeReader().read(path)
    shape = (int(voxels.shape[0]), int(voxels.shape[1]), int(voxels.shape[2]))
    view = SliceView(shape, np.asarray(metadata["affine"], float), is_image_file(path))
    slices = view.to_slices(np.asarray(voxels, np.float32))
    colour = slices.ndim == 4
    values = torch.from_numpy(np.moveaxis(slices, -1, 0) if colour else slices[None])
    mode, lower, upper = ("rgb", 0.0, 255.0) if colour else ("percentile", 0.5, 99.5)
    if modality.upper() == "CT" and not colour:
        mode, (lower, upper) = "hu_window", CT_WINDOW
    scaled = ScaleToUnitRanged("image", mode, lower, upper)({"image": values})["image"]
    return SlicedImage(path.name, file_sha256(path), view, scaled)

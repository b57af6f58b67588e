"""In-plane resampling of volumes to a spacing; slices keep their positions."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.data.utils import affine_to_spacing
from monai.transforms import MapTransform, Spacing
from monai.utils import ensure_tuple_rep
from torch import Tensor

from tskd_monai.data.output_names import image_title

SLICES_AT_ONCE = 16
MODES = ("bilinear", "nearest")
COARSEST_PIXEL = 10
"""Largest pixel size of a volume, in pixels of the new grid; a larger one indicates a wrong header."""
SMALLEST_SIDE = 2
"""Fewest pixels of the new grid along the side of a slice; fewer indicate a wrong header."""
MOST_VOXELS = 2**30
"""Largest number of voxels of the new grid, times channels: 4 GiB in float32."""


class SliceSpacingd(MapTransform):
    """Resamples the slices of volumes to a spacing, as MONAI's `Spacingd` with -1 for the last axis.

    Grid and values are those of `Spacingd` up to rounding. `Spacingd` also interpolates between slices, although their
    positions do not change, in double precision and all at once: 1.4 GB on a 512 x 512 x 280 CT, and many times slower.
    It also resamples sheared volumes to an orthogonal grid, while here they stay sheared.

    A volume whose pixels are far larger than those of the new grid, or that covers hardly a pixel of it, is refused
    before allocation: its spacing is in another unit.

    Args:
        keys: keys of volumes (C, H, W, D), MetaTensor; the result is float32.
        pixdim: spacing of rows and columns, mm.
        mode: `bilinear` or `nearest`, for all keys or for each.

    Raises:
        ValueError: when a mode is neither.
    """

    def __init__(self, keys: KeysCollection, pixdim: Sequence[float], mode: str | Sequence[str] = "bilinear") -> None:
        super().__init__(keys)
        self.modes = ensure_tuple_rep(mode, len(self.keys))
        if not set(self.modes) <= set(MODES):
            raise ValueError(f"Expected modes among {MODES}, found {self.modes}.")
        self.pixdim = (float(pixdim[0]), float(pixdim[1]))
        self.spacing = Spacing(pixdim=(*pixdim, -1.0), lazy=True)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns the dictionary with resampled volumes.

        Raises:
            ValueError: when a volume's spacing cannot be right for this grid; names the file and the spacing.
        """
        resampled = dict(data)
        for key, mode in self.key_iterator(resampled, self.modes):
            resampled[key] = self._resample(resampled[key], mode)
        return resampled

    def _resample(self, volume: MetaTensor, mode: str) -> MetaTensor:
        check_resampling(
            tuple(volume.shape),
            affine_to_spacing(np.asarray(volume.affine, dtype=np.float64))[:2].tolist(),
            self.pixdim,
            image_title(volume.meta),
            str(volume.meta.get("unit", "mm")),
        )
        shape, to_volume = self._plan(volume)
        rows, columns = (
            torch.arange(shape[axis], dtype=torch.float64) * to_volume[axis, axis] + to_volume[axis, 3]
            for axis in (0, 1)
        )
        slices = volume.as_tensor().movedim(-1, 1)
        result = torch.empty((volume.shape[0], shape[2], *shape[:2]), dtype=torch.float32)
        for start in range(0, shape[2], SLICES_AT_ONCE):
            few = slice(start, start + SLICES_AT_ONCE)
            result[:, few] = resample_plane(slices[:, few].to(torch.float32), rows, columns, mode)
        meta = {key: value for key, value in volume.meta.items() if key != "affine"}
        return MetaTensor(result.movedim(1, -1), affine=volume.affine.to(torch.float64) @ to_volume, meta=meta)

    def _plan(self, volume: MetaTensor) -> tuple[tuple[int, ...], Tensor]:
        """Returns the shape of the new grid, and the matrix (4, 4) from its indices to the volume's."""
        steps = np.diag([*affine_to_spacing(np.asarray(volume.affine)), 1.0])
        planned = cast(
            MetaTensor, self.spacing(MetaTensor(volume.as_tensor(), affine=torch.from_numpy(steps)))
        )  # resamples nothing
        to_volume = np.linalg.solve(steps, np.asarray(planned.peek_pending_affine(), dtype=np.float64))
        return tuple(int(size) for size in planned.peek_pending_shape()), torch.from_numpy(to_volume)


def check_resampling(
    shape: Sequence[int], spacing: Sequence[float], pixdim: Sequence[float], name: str, unit: str = "mm"
) -> None:
    """Raises ValueError when a volume's slices would be far too coarse, small or large at another spacing.

    Args:
        shape: (C, H, W, D).
        spacing: spacing of the volume's rows and columns, in `unit`.
        pixdim: spacing of rows and columns after resampling.
        name: name of the file.
        unit: `mm` or `pixels`.
    """
    channels, *size, slices = shape
    pixels = [step / target for step, target in zip(spacing, pixdim, strict=True)]
    sides = [count * pixel for count, pixel in zip(size, pixels, strict=True)]
    if max(pixels) > COARSEST_PIXEL:
        expected = f"pixels of at most {COARSEST_PIXEL} times"
    elif round(min(sides)) < SMALLEST_SIDE:
        expected = f"slices of at least {SMALLEST_SIDE} pixels a side at"
    elif channels * slices * math.prod(sides) > MOST_VOXELS:
        expected = f"at most {MOST_VOXELS} voxels at"
    else:
        return
    raise ValueError(
        f"Expected {expected} the {_product(pixdim)} {unit} that the network works at in {name}, found slices of "
        f"{_product(size)} pixels of {_product(spacing)} {unit}; correct the spacing in its header, or leave the image "
        "out."
    )


def _product(numbers: Sequence[float]) -> str:
    return " x ".join(f"{number:.4g}" for number in numbers)


def resample_plane(images: Tensor, rows: Tensor, columns: Tensor, mode: str = "bilinear") -> Tensor:
    """Returns images resampled at positions, (…, H, W).

    Args:
        images: (…, h, w).
        rows: positions along h, (H,), clamped to the border.
        columns: positions along w, (W,).
        mode: `bilinear` or `nearest`.
    """
    for axis, positions in ((-2, rows), (-1, columns)):
        below, above, weight = neighbours(positions, images.shape[axis])
        if mode == "nearest":
            # Halfway between two pixels, the even one, as in `grid_sample`.
            images = images.index_select(axis, positions.clamp(0, images.shape[axis] - 1).round().long())
        elif weight.any():
            weight = weight.to(images.dtype).reshape(-1, *[1] * (-1 - axis))
            images = torch.lerp(images.index_select(axis, below), images.index_select(axis, above), weight)
        else:
            images = images.index_select(axis, below)
    return images


def neighbours(positions: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the pixels before and after each position along an axis, and the weight of the latter in [0, 1].

    Args:
        positions: positions in pixels, (N,), clamped to the border.
        size: length of the axis, pixels.
    """
    inside = positions.clamp(0, size - 1)
    before = inside.floor().long().clamp(max=max(size - 2, 0))
    return before, (before + 1).clamp(max=size - 1), inside - before

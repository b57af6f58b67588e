"""Volumes of known voxels on disk, in any orientation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform


@pytest.fixture
def write_nifti(tmp_path: Path) -> Callable[..., Path]:
    """Return the function that writes an array (R, A, S) of a given spacing as NIfTI in any orientation."""

    def write(
        name: str,
        array: np.ndarray,
        spacing: tuple[float, float, float] = (1.0, 1.0, 4.0),
        axcodes: str = "RAS",
        rotation: np.ndarray | None = None,
    ) -> Path:
        affine = np.eye(4)
        affine[:3, :3] = (np.eye(3) if rotation is None else rotation) @ np.diag(spacing)
        affine[:3, 3] = (-37.0, 12.5, 80.0)
        image = nib.Nifti1Image(array, affine)
        turned = image.as_reoriented(ornt_transform(io_orientation(affine), axcodes2ornt(axcodes)))
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(turned, path)
        return path

    return write

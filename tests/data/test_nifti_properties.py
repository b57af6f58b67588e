"""Voxels and affine of a NIfTI file are read as written, in any orientation and data type."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tskd_monai.data.grid import corner_distance
from tskd_monai.data.nifti import read_nifti
from tskd_monai.datasets.phantom.render import rotation_matrix

ANGLES = st.tuples(*[st.floats(-180, 180)] * 3)
SPACINGS = st.tuples(*[st.floats(0.05, 20)] * 3)
OFFSETS = st.tuples(*[st.floats(-2000, 2000)] * 3)
SHAPES = st.tuples(*[st.integers(1, 6)] * 3)
FLIPS = st.tuples(*[st.sampled_from((-1.0, 1.0))] * 3)


@st.composite
def affines(draw: st.DrawFn) -> np.ndarray:
    """Returns an affine without shear, oblique and left-handed ones included."""
    affine = np.eye(4)
    affine[:3, :3] = rotation_matrix(draw(ANGLES)) * np.array(draw(SPACINGS)) * np.array(draw(FLIPS))
    affine[:3, 3] = draw(OFFSETS)
    return affine


@given(
    affine=affines(),
    shape=SHAPES,
    kind=st.sampled_from(("<u1", "<i2", ">i2", "<i4", "<f4", ">f8")),
    place=st.sampled_from(("sform", "qform")),
    ending=st.sampled_from((".nii", ".nii.gz")),
    version=st.sampled_from((nib.Nifti1Image, nib.Nifti2Image)),
)
def test_a_volume_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory,
    affine: np.ndarray,
    shape: tuple[int, int, int],
    kind: str,
    place: str,
    ending: str,
    version: type,
) -> None:
    voxels = np.arange(np.prod(shape)).reshape(shape).astype(kind)
    header = version.header_class(endianness=kind[0])
    image = version(voxels, affine, header, dtype=kind)
    image.set_sform(affine, code=1 if place == "sform" else 0)
    image.set_qform(affine, code=1 if place == "qform" else 0)
    path = tmp_path_factory.getbasetemp() / f"volume{ending}"
    nib.save(image, path)
    found, found_affine = read_nifti(path)
    assert found.dtype == np.float32 and found_affine.dtype == np.float64
    np.testing.assert_array_equal(found, voxels)
    assert corner_distance(shape, found_affine, affine) < 2e-3  # headers have single precision


@given(first=affines(), second=affines(), shape=SHAPES, shift=OFFSETS)
def test_the_distance_of_two_positions(
    first: np.ndarray, second: np.ndarray, shape: tuple[int, int, int], shift: tuple[float, float, float]
) -> None:
    assert corner_distance(shape, first, first) == 0
    assert corner_distance(shape, first, second) == corner_distance(shape, second, first)
    moved = first.copy()
    moved[:3, 3] += shift
    assert corner_distance(shape, first, moved) == pytest.approx(np.linalg.norm(shift), abs=1e-9)

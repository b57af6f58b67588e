from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from tskd_monai.data.grid import (
    body_spacing,
    corner_distance,
    reoriented,
    require_orthogonal,
    same_grid,
    shear_degrees,
    voxel_spacing,
)

AFFINE = np.array([[-1.5, 0, 0, 80], [0, 1.5, 0, -60], [0, 0, 7, 10], [0, 0, 0, 1.0]])


def test_corner_distance_is_zero_for_one_affine_and_grows_with_the_volume():
    moved = AFFINE.copy()
    moved[0, 0] += 0.01
    assert corner_distance((10, 10, 10), AFFINE, AFFINE) == 0
    assert corner_distance((101, 10, 10), AFFINE, moved) == pytest.approx(1.0)


@pytest.mark.parametrize(("scale", "shift", "same"), [(1, 0.09, True), (1, 0.11, False), (0.01, 0.002, False)])
def test_grids_are_the_same_within_a_tenth_of_a_mm_and_of_a_voxel(scale, shift, same):
    moved = AFFINE * scale
    moved[1, 3] += shift
    assert same_grid((30, 20, 10), AFFINE * scale, moved) is same
    assert not same_grid((30, 20, 10), AFFINE, AFFINE * [-1, 1, 1, 1])


@pytest.mark.parametrize("degrees", [0.0, 30.0])
@pytest.mark.parametrize("axcodes", ["RAS", "LPS", "SAR", "ILP"])
def test_a_volume_is_turned_whatever_its_axes(axcodes, degrees):
    ras = np.indices((3, 4, 5)).transpose(1, 2, 3, 0) @ np.array([1, 10, 100])
    turn = nib.eulerangles.euler2mat(x=np.radians(degrees))
    image = nib.Nifti1Image(ras.astype(np.int16), nib.affines.from_matvec(turn @ np.diag([1.0, 2, 5])))
    there = nib.orientations.ornt_transform(nib.io_orientation(np.eye(4)), nib.orientations.axcodes2ornt(axcodes))
    stored = image.as_reoriented(there)
    np.testing.assert_array_equal(reoriented(np.asarray(stored.dataobj), stored.affine, "RAS"), ras)
    np.testing.assert_array_equal(reoriented(np.asarray(stored.dataobj), stored.affine, "LPS"), ras[::-1, ::-1])
    np.testing.assert_allclose(body_spacing(stored.affine), [1, 2, 5])
    np.testing.assert_allclose(np.abs(voxel_spacing(stored.affine)), stored.header.get_zooms(), rtol=1e-6)


def test_shear_is_an_angle_and_single_precision_is_none():
    require_orthogonal(AFFINE, "a")
    assert shear_degrees(AFFINE) == shear_degrees(AFFINE + 5e-4) == 0
    sheared = AFFINE.copy()
    sheared[1, 2] = 7 * np.tan(np.radians(20))
    assert shear_degrees(sheared) == pytest.approx(20)
    with pytest.raises(ValueError, match="orthogonal axes in a, found one sheared by 20.0 degrees"):
        require_orthogonal(sheared, "a")

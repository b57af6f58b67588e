from __future__ import annotations

import pytest

from tskd_monai.files.limits import MAX_VOXELS, check_held, check_voxel_count


def test_what_fits_passes() -> None:
    check_voxel_count(MAX_VOXELS, "a.nii")
    check_held(1000, 1000, 1, "a.nii")
    check_held(1000, 1, 1000, "a.nii.gz")


def test_more_voxels_than_an_image_may_have_are_refused() -> None:
    with pytest.raises(ValueError, match=f"Expected at most {MAX_VOXELS} voxels in a.nii, found a header that claims"):
        check_voxel_count(MAX_VOXELS + 1, "a.nii")


def test_more_than_the_file_can_hold_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a.nii.gz .*its header states 1001 bytes of voxels, the file holds 1000"):
        check_held(1001, 10, 100, "a.nii.gz")

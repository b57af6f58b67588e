from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Spacingd

from tskd_monai.transforms.slice_spacing import SliceSpacingd, neighbours, resample_plane

COS, SIN = np.cos(0.3), np.sin(0.3)
TURN = np.array([[COS, -SIN, 0, 5], [SIN, COS, 0, -20], [0, 0, 1, 9], [0, 0, 0, 1]])
TILT = np.array([[1, 0, 0, 0], [0, COS, -SIN, 0], [0, SIN, COS, 0], [0, 0, 0, 1]])
STRAIGHT = np.diag([1.3, -0.7, 5.0, 1.0])
OBLIQUE = TURN @ TILT @ STRAIGHT


def volume(shape: tuple[int, ...], affine: np.ndarray) -> MetaTensor:
    values = torch.from_numpy(np.random.default_rng(0).random(shape))
    return MetaTensor(values, affine=affine, meta={"filename_or_obj": "a.nii.gz"})


@pytest.mark.parametrize("affine", [STRAIGHT, OBLIQUE], ids=["straight", "oblique"])
# No position is halfway between two pixels, where rounding decides which is nearest.
@pytest.mark.parametrize("pixdim", [(1.3, 0.7), (2.1, 1.9), (0.41, 0.53)])
def test_grid_and_values_are_those_of_spacing(affine: np.ndarray, pixdim: tuple[float, float]) -> None:
    image, label = volume((2, 19, 24, 37), affine), volume((1, 19, 24, 37), affine).gt(0.5).float()
    item = {"image": image, "label": label}
    expected = Spacingd(("image", "label"), (*pixdim, -1.0), mode=("bilinear", "nearest"))(item)
    found = SliceSpacingd(("image", "label"), pixdim, ("bilinear", "nearest"))(item)
    for key in item:
        assert found[key].dtype == torch.float32
        tolerance = 0 if key == "label" else 1e-5
        torch.testing.assert_close(found[key].as_tensor(), expected[key].as_tensor(), rtol=0, atol=tolerance)
        torch.testing.assert_close(found[key].affine, expected[key].affine)
    assert found["image"].meta["filename_or_obj"] == "a.nii.gz"
    assert image.shape == (2, 19, 24, 37)


def test_sheared_volume_keeps_its_slices() -> None:
    sheared = STRAIGHT.copy()
    sheared[1, 2] = 2.0  # a gantry tilt
    image, straight = (
        SliceSpacingd("image", (2.1, 1.9))({"image": volume((1, 19, 24, 5), affine)})["image"]
        for affine in (sheared, STRAIGHT)
    )
    assert torch.equal(image.as_tensor(), straight.as_tensor())
    np.testing.assert_allclose(image.affine[:3, 2], sheared[:3, 2])
    np.testing.assert_allclose(image.affine[:3, 3], straight.affine[:3, 3])


def test_equal_positions_change_nothing() -> None:
    images = torch.rand(3, 5, 7)
    assert torch.equal(resample_plane(images, torch.arange(5.0), torch.arange(7.0)), images)


def test_positions_beyond_the_border_count_as_on_it() -> None:
    before, after, share = neighbours(torch.tensor([-3.0, 0.25, 3.0, 9.0]), 4)
    assert before.tolist() == [0, 0, 2, 2] and after.tolist() == [1, 1, 3, 3]
    assert share.tolist() == [0.0, 0.25, 1.0, 1.0]
    assert [each.tolist() for each in neighbours(torch.tensor([0.0, 2.0]), 1)] == [[0, 0], [0, 0], [0.0, 0.0]]


def test_halfway_the_even_pixel_is_the_nearest() -> None:
    halves = torch.tensor([0.5, 1.5, 2.5], dtype=torch.float64)
    found = resample_plane(torch.arange(4.0).expand(4, 4), halves, halves, "nearest")
    assert found[0].tolist() == [0, 2, 2]


def test_other_modes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"modes among \('bilinear', 'nearest'\), found \('bicubic',\)"):
        SliceSpacingd("image", (1.0, 1.0), "bicubic")


@pytest.mark.parametrize(
    ("shape", "spacing", "message"),
    [
        ((1, 128, 128, 3), 780.0, r"at most 10 times the 1\.5 x 2 mm .* in a\.nii\.gz, found .* 780 x 780 mm"),
        ((1, 128, 128, 3), 1e30, r"pixels of at most 10 times .*1e\+30 x 1e\+30 mm"),
        ((1, 128, 128, 3), 0.00078, r"at least 2 pixels a side .* found slices of 128 x 128 pixels of 0\.00078"),
        ((1, 1, 1, 1), 1.0, r"at least 2 pixels a side at the 1\.5 x 2 mm .* found slices of 1 x 1 pixels"),
        ((1, 1, 64, 9), 1.0, r"at least 2 pixels a side .* found slices of 1 x 64 pixels"),
        ((3, 2048, 2048, 50), 7.0, r"at most 1073741824 voxels at .* found slices of 2048 x 2048 pixels of 7 x 7 mm"),
    ],
    ids=["metres", "huge", "microns", "one pixel", "one row", "memory"],
)
def test_absurd_spacing_is_refused_before_memory_is_taken(
    shape: tuple[int, ...], spacing: float, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = torch.zeros(1).expand(shape)  # one number: no memory for these values either
    image = MetaTensor(values, affine=np.diag([spacing, spacing, 5, 1]), meta={"filename_or_obj": "/Doe/a.nii.gz"})
    monkeypatch.setattr(torch, "empty", None)
    with pytest.raises(ValueError, match=message) as raised:
        SliceSpacingd("image", (1.5, 2.0))({"image": image})
    assert "Doe" not in str(raised.value)


def test_coarse_and_small_images_are_resampled_up_to_the_limits() -> None:
    coarse = SliceSpacingd("image", (1.0, 1.0))({"image": volume((1, 9, 9, 2), np.diag([10.0, 10.0, 5.0, 1.0]))})
    assert coarse["image"].shape == (1, 81, 81, 2)
    small = SliceSpacingd("image", (1.0, 1.0))({"image": volume((1, 2, 40, 2), np.eye(4))})
    assert small["image"].shape == (1, 2, 40, 2)

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from tskd_monai.transforms.intensity import ScaleToUnitRanged

MODES = ["percentile", "hu_window", "rgb"]


def _scale(image: torch.Tensor, mode: str = "percentile", lower: float = 0, upper: float = 100) -> torch.Tensor:
    return ScaleToUnitRanged("image", mode, lower, upper)({"image": image})["image"]


@pytest.fixture
def image() -> torch.Tensor:
    return torch.randn(1, 9, 8, 7, generator=torch.Generator().manual_seed(0)) * 50 + 300


def test_percentiles_of_the_image_become_0_and_1(image: torch.Tensor) -> None:
    scaled = _scale(image, lower=5, upper=90)
    low, high = np.percentile(image.numpy(), [5, 90])
    expected = np.clip((image.numpy() - low) / (high - low), 0, 1)
    assert scaled.shape == image.shape and scaled.dtype == torch.float32
    np.testing.assert_allclose(scaled.numpy(), expected, atol=1e-5)
    assert 0 < scaled.median() < 1


def test_percentile_scaling_undoes_gain_and_offset(image: torch.Tensor) -> None:
    torch.testing.assert_close(_scale(image * 7 - 1000, lower=1, upper=99), _scale(image, lower=1, upper=99))


@pytest.mark.parametrize("mode", ["hu_window", "rgb"])
def test_a_window_is_the_same_for_every_image(mode: str) -> None:
    values = torch.tensor([[-1000, -100, 0, 100, 3000]], dtype=torch.int16)
    assert _scale(values, mode, -100, 100).tolist() == [[0.0, 0.0, 0.5, 1.0, 1.0]]
    assert _scale(values[:, 1:4], mode, -100, 100).tolist() == [[0.0, 0.5, 1.0]]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("mode", MODES)
def test_bad_voxels_become_0_and_change_no_other(
    image: torch.Tensor, bad: float, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    holed = image.clone()
    holed[0, 0] = bad  # 56 voxels
    lower, upper = (1, 99) if mode == "percentile" else (200, 400)
    with caplog.at_level(logging.WARNING):
        scaled = _scale(holed, mode, lower, upper)
    assert "56 NaN or infinite voxels" in caplog.text
    assert (scaled[0, 0] == 0).all()
    torch.testing.assert_close(scaled[:, 1:], _scale(image[:, 1:], mode, lower, upper))


def test_finite_images_give_no_warning(image: torch.Tensor, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        _scale(image)
    assert caplog.text == ""


def test_values_too_large_to_be_summed_are_finite_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    values = torch.tensor([[0.0, 1e38, 2e38, 3e38, 3e38]])
    with caplog.at_level(logging.WARNING):
        scaled = _scale(values, "hu_window", 0, 2e38)
    assert scaled.tolist() == [[0.0, 0.5, 1.0, 1.0, 1.0]]
    assert caplog.text == ""


@pytest.mark.parametrize("fill", [0.0, -3.5, 1e6, float("nan")])
def test_a_constant_image_becomes_0(fill: float) -> None:
    assert torch.equal(_scale(torch.full((1, 4, 4), fill)), torch.zeros(1, 4, 4))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("constant", [False, True])
def test_geometry_is_kept_and_the_input_unchanged(image: torch.Tensor, mode: str, constant: bool) -> None:
    affine = torch.tensor([[0, 2.0, 0, -9], [1.5, 0, 0, 4], [0, 0, -7, 33], [0, 0, 0, 1]], dtype=torch.float64)
    before = torch.ones_like(image) if constant else image
    given = MetaTensor(before.clone(), affine=affine, meta={"filename_or_obj": "a.nii"})
    scaled = _scale(given, mode, 1, 99)
    assert isinstance(scaled, MetaTensor) and scaled.meta["filename_or_obj"] == "a.nii"
    assert torch.equal(scaled.affine, affine)
    assert torch.equal(given.as_tensor(), before)


def test_absent_keys_are_passed_over_only_if_allowed(image: torch.Tensor) -> None:
    lenient = ScaleToUnitRanged(["image", "prior"], "hu_window", 0, 1, allow_missing_keys=True)
    assert set(lenient({"image": image, "case": "a"})) == {"image", "case"}
    with pytest.raises(KeyError, match="prior"):
        ScaleToUnitRanged(["image", "prior"], "hu_window", 0, 1)({"image": image})


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="Expected mode percentile, hu_window or rgb, found zscore"):
        ScaleToUnitRanged("image", "zscore", 0, 1)

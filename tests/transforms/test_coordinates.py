"""Maps of an image follow it through spatial transforms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.transforms import RandAffined, RandFlipd, RandSpatialCropd, Transform
from torch import Tensor
from torch.nn import functional as F

from tskd_monai.transforms.coordinates import AddCoordinatesd, follow, homogeneous_coordinates
from tskd_monai.transforms.pipelines import augmentation

KEYS = ("image", "coordinates")


def smooth(height: int, width: int, channels: int = 1) -> Tensor:
    """Return a smooth image (C, H, W) in [0.2, 1]: interpolating it twice changes little."""
    noise = torch.rand(1, channels, 4, 4, generator=torch.Generator().manual_seed(1))
    return 0.2 + 0.8 * F.interpolate(noise, (height, width), mode="bicubic", align_corners=True)[0].clamp(0, 1)


def moved(image: Tensor, transform: Any, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return the image (1, C, H, W) after a transform, and its coordinates (1, 3, H, W)."""
    transform.set_random_state(seed)
    item = transform(AddCoordinatesd()({"image": image}))
    return torch.as_tensor(item["image"])[None], torch.as_tensor(item["coordinates"])[None]


def affine(**ranges: Any) -> Transform:
    return RandAffined(KEYS, prob=1.0, mode="bilinear", padding_mode="zeros", **ranges)


def test_coordinates_are_symmetric_and_lie_between_the_edges() -> None:
    coordinates = homogeneous_coordinates(4, 8)
    assert coordinates.shape == (3, 4, 8)
    assert coordinates[0, 0].tolist() == [-0.875, -0.625, -0.375, -0.125, 0.125, 0.375, 0.625, 0.875]
    assert coordinates[1, :, 0].tolist() == [-0.75, -0.25, 0.25, 0.75]
    assert torch.equal(coordinates[2], torch.ones(4, 8))


def test_they_are_added_to_a_copy_of_the_item() -> None:
    item = {"image": torch.zeros(1, 4, 6), "case": "one"}
    assert set(AddCoordinatesd(output_key="places")(item)) == {"image", "case", "places"}
    assert set(item) == {"image", "case"}


@pytest.mark.parametrize("padding_mode", ["zeros", "border"])
def test_an_image_that_did_not_move_gives_the_maps_back(padding_mode: str) -> None:
    maps = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    coordinates = homogeneous_coordinates(16, 24).expand(2, -1, -1, -1)
    torch.testing.assert_close(follow(coordinates, maps, padding_mode), maps, rtol=0, atol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_maps_follow_rotation_scaling_and_shift(seed: int) -> None:
    image = smooth(32, 48, channels=2)
    transform = affine(rotate_range=0.5, scale_range=(0.2, 0.2), translate_range=(5, 5))
    after, coordinates = moved(image, transform, seed)
    inside = (coordinates[:, 2:] > 0.999).expand_as(after)
    assert inside.float().mean() > 0.5
    assert (after - image).abs().max() > 0.1  # it did move
    torch.testing.assert_close(follow(coordinates, image[None])[inside], after[inside], rtol=0, atol=2e-3)


def test_maps_follow_the_bundles_augmentation() -> None:
    image = smooth(32, 32)
    transform = augmentation(KEYS)
    transform.transforms = transform.transforms[:2]  # without those of the intensity
    transform.set_random_state(3)
    item = transform({"image": image})
    coordinates = torch.as_tensor(item["coordinates"])[None]
    inside = coordinates[0, 2:] > 0.999
    after = torch.as_tensor(item["image"])
    assert (after - image).abs().max() > 0.1
    torch.testing.assert_close(follow(coordinates, image[None])[0][inside], after[inside], rtol=0, atol=2e-3)


def test_maps_follow_a_mirror_and_a_crop_exactly() -> None:
    image = torch.rand(1, 16, 24, generator=torch.Generator().manual_seed(0))
    for transform in (
        RandFlipd(KEYS, prob=1.0, spatial_axis=1),
        RandFlipd(KEYS, prob=1.0, spatial_axis=0),
        RandSpatialCropd(KEYS, roi_size=(8, 12), random_size=False),
    ):
        after, coordinates = moved(image, transform)
        assert after.shape != (1, 1, 16, 24) or not torch.equal(after[0], image)
        torch.testing.assert_close(follow(coordinates, image[None]), after, rtol=0, atol=1e-5)


def test_outside_the_image_is_zero_or_the_border() -> None:
    after, coordinates = moved(torch.ones(1, 16, 16), affine(translate_range=[(6, 6), (0, 0)]))
    outside = coordinates[:, 2:] < 0.001
    assert 0.2 < outside.float().mean() < 0.6
    maps = torch.ones(1, 1, 16, 16)
    assert after[outside].abs().max() == 0
    assert follow(coordinates, maps)[outside].abs().max() == 0
    torch.testing.assert_close(follow(coordinates, maps, "border")[outside], torch.ones(int(outside.sum())))


def test_zeros_mixed_in_at_the_edge_are_undone_down_to_one_half() -> None:
    maps = torch.rand(1, 1, 16, 24, generator=torch.Generator().manual_seed(0))
    coordinates = homogeneous_coordinates(16, 24)[None]
    torch.testing.assert_close(follow(0.6 * coordinates, maps), maps, rtol=0, atol=1e-5)
    assert follow(0.4 * coordinates, maps).abs().max() == 0


@pytest.mark.parametrize("size", [(8, 8), (16, 24), (64, 96)])
def test_maps_may_have_any_resolution(size: tuple[int, int]) -> None:
    plane = homogeneous_coordinates(*size)[None, :2]  # maps that encode their position
    after, coordinates = moved(homogeneous_coordinates(32, 48)[:2], affine(rotate_range=0.4))
    inside = ((coordinates[:, 2:] > 0.999) & (coordinates[:, :2].abs().amax(1, keepdim=True) < 0.85)).expand(
        -1, 2, -1, -1
    )
    found = follow(coordinates, plane)
    assert found.shape == (1, 2, 32, 48)
    torch.testing.assert_close(found[inside], after[inside], rtol=0, atol=1e-4)

"""The shift is a fraction of the slice, whatever its size, and everything of a slice moves together."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from tskd_monai.data.task import Task
from tskd_monai.transforms.coordinates import AddCoordinatesd
from tskd_monai.transforms.pipelines import augmentation, contrastive_augmentation
from tskd_monai.transforms.random_affine import RandomAffined

KEYS = ["image", "coordinates"]


def shifts(size: tuple[int, int], strength: float = 1.0, draws: int = 50) -> np.ndarray:
    """Returns the centre of the moved slice, as offsets from the centre in fractions of height and width, (N, 2).

    Rotation and scaling keep the centre fixed.
    """
    transform = RandomAffined(KEYS, strength=strength).set_random_state(0)
    item = AddCoordinatesd()({"image": torch.ones(1, *size)})
    found = []
    for _ in range(draws):
        moved = torch.as_tensor(transform(item)["coordinates"])
        middle = moved[:, size[0] // 2 - 1 : size[0] // 2 + 1, size[1] // 2 - 1 : size[1] // 2 + 1].mean((1, 2))
        found.append([float(middle[1]) / 2, float(middle[0]) / 2])  # coordinates run from -1 to 1
    return np.abs(np.array(found))


@pytest.mark.parametrize("size", [(16, 16), (64, 64), (240, 240)])
def test_shift_is_six_percent_at_every_size(size: tuple[int, int]) -> None:
    found = shifts(size)
    longest = 0.06 * (np.cos(0.26) + np.sin(0.26))  # of a side, after a rotation by 15 degrees
    assert found.max(axis=0).min() > 0.05 and found.max() < longest
    np.testing.assert_allclose(found, shifts((32, 32)), atol=1e-3)


def test_each_side_has_its_own_shift() -> None:
    rows, columns = (shifts((32, 256)) * (32, 256)).max(axis=0)
    assert 0.75 * 0.06 * 256 < columns < 0.06 * 256 + 0.06 * 32
    assert rows < 0.06 * 32 + 0.26 * 0.06 * 256 < 0.5 * columns


def test_strength_scales_the_shift() -> None:
    assert 0.4 < shifts((64, 64), 0.5).max() / shifts((64, 64)).max() < 0.6
    assert shifts((64, 64), 0.0, draws=4).max() < 1e-6


@pytest.mark.parametrize("size", [(24, 40), (96, 64)])
def test_label_and_coordinates_move_with_the_image(size: tuple[int, int]) -> None:
    item = AddCoordinatesd()({"image": torch.zeros(1, *size)})
    x, y = item["coordinates"][:2]
    disc = ((x / 0.5) ** 2 + (y / 0.3) ** 2 < 1).float()[None]
    transform = RandomAffined(["image", "label", "coordinates"]).set_random_state(1)
    for _ in range(8):
        moved = {
            key: torch.as_tensor(value) for key, value in transform({**item, "image": disc, "label": disc}).items()
        }
        assert ((moved["image"] > 0.5) != (moved["label"] > 0.5)).float().mean() < 0.03
        x, y, weight = moved["coordinates"]
        inside = ((x / 0.5) ** 2 + (y / 0.3) ** 2 < 1) & (weight > 0.5)
        assert (inside != (moved["label"][0] > 0.5)).float().mean() < 0.03


def test_sizes_may_change_from_slice_to_slice_and_the_item_stays() -> None:
    transform = RandomAffined(["image"]).set_random_state(0)
    for size in ((16, 24), (40, 8)):
        item = {"image": torch.ones(1, *size), "case": "a"}
        moved = transform(item)
        assert moved["image"].shape == (1, *size) and moved["case"] == "a"
        assert torch.equal(item["image"], torch.ones(1, *size))


def test_the_same_seed_draws_the_same() -> None:
    image = {"image": torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(0))}
    one, same, other = (
        [torch.as_tensor(transform(image)["image"]) for _ in range(3)]
        for transform in (RandomAffined(["image"]).set_random_state(seed) for seed in (3, 3, 4))
    )
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not torch.equal(one[0], one[1]) and not torch.equal(one[0], other[0])


def test_every_augmentation_shifts_by_it(make_task: Callable[..., Task]) -> None:
    for transforms in (augmentation().transforms, contrastive_augmentation(make_task()).transforms):
        assert [type(one) for one in transforms].count(RandomAffined) == 1

from __future__ import annotations

import torch
from monai.transforms import RandGaussianNoised

from tskd_monai.transforms.pipelines import TwoViews


def views(seed: int) -> torch.Tensor:
    transform = TwoViews(RandGaussianNoised("image", prob=1.0)).set_random_state(seed)
    return transform({"image": torch.zeros(3, 8, 6), "slice": 2})["image"]


def test_two_different_draws_of_one_image() -> None:
    item = {"image": torch.zeros(3, 8, 6), "slice": 2}
    changed = TwoViews(RandGaussianNoised("image", prob=1.0))(item)
    assert changed["image"].shape == (2, 3, 8, 6) and changed["slice"] == 2
    assert not torch.equal(changed["image"][0], changed["image"][1])
    assert item["image"].sum() == 0


def test_the_seed_decides_the_draws() -> None:
    assert torch.equal(views(1), views(1)) and not torch.equal(views(1), views(2))

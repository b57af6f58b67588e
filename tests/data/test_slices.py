from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import DataLoader, MetaTensor
from monai.transforms import Compose, RandGaussianNoised, RandShiftIntensityd
from PIL import Image
from torch.utils.data import Dataset

from tskd_monai.data.slices import PreparedImageDataset, SliceDataset

CASES = [{"case": "a", "depth": 4}, {"case": "b", "depth": 3}]


def _load(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A volume whose voxels are 10 × its depth + the slice's index, labelled 2 on every other slice."""
    index = torch.arange(entry["depth"], dtype=torch.float32).expand(1, 6, 5, -1)
    return {"image": MetaTensor(index + 10 * entry["depth"]), "label": (index % 2 * 2).to(torch.uint8)}


def _noise(*keys: str) -> Compose:
    return Compose([RandShiftIntensityd(keys, 0.3, prob=0.7), RandGaussianNoised(keys, prob=1.0, std=0.1)])


def _images(dataset: Dataset) -> torch.Tensor:
    return torch.stack([dataset[index]["image"] for index in range(len(dataset))])  # type: ignore[arg-type]


@pytest.fixture
def prepared(tmp_path: Path) -> list[dict[str, Any]]:
    """Two grey images of 6 x 5 pixels."""
    for number in range(2):
        Image.fromarray(np.arange(30, dtype=np.uint8).reshape(6, 5) + 200 * number).save(tmp_path / f"{number}.png")
    return [{"image": str(tmp_path / f"{number}.png"), "case": f"synthetic_{number}"} for number in range(2)]


def test_every_slice_of_every_volume_in_order() -> None:
    dataset = SliceDataset(CASES, _load)
    assert len(dataset) == 7
    assert dataset[0]["image"].shape == dataset[0]["label"].shape == (1, 6, 5)
    assert [item["image"].unique().item() for item in dataset] == [40, 41, 42, 43, 30, 31, 32]
    assert [item["slice"] for item in dataset] == [0, 1, 2, 3, 0, 1, 2]
    assert dataset.classes_present() == [set(), {2}, set(), {2}, set(), {2}, set()]
    assert not any(isinstance(item["image"], MetaTensor) for item in dataset)


def test_slices_select_image_and_label_alike() -> None:
    dataset = SliceDataset([{**CASES[0], "slices": [3, 0]}, CASES[1], {**CASES[1], "slices": []}], _load)
    assert [item["image"].unique().item() for item in dataset] == [43, 40, 30, 31, 32]
    assert [item["label"].unique().item() for item in dataset] == [2, 0, 0, 2, 0]


@pytest.mark.parametrize("index", [-1, 4])
def test_a_slice_that_is_not_there_is_refused(index: int) -> None:
    message = rf"Expected slices of 0 to 3 of case a, found \[1, {index}\]"
    with pytest.raises(ValueError, match=message):
        SliceDataset([{**CASES[0], "slices": [1, index]}], _load)


def test_only_the_named_keys_are_kept() -> None:
    assert set(SliceDataset(CASES, _load, keys=("image",))[0]) == {"image", "slice", "position"}


def test_the_same_seed_gives_the_same_items_and_no_item_changes_the_volumes() -> None:
    plain, dataset = SliceDataset(CASES, _load), SliceDataset(CASES, _load, _noise("image"))
    draws = [_images(dataset.set_random_state(seed)) for seed in (5, 5, 6)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert not torch.equal(
        _images(dataset), draws[2]
    )  # the next epoch continues the random stream instead of restarting it
    dataset.slice_transform = None
    assert torch.equal(_images(dataset), _images(plain))


def test_workers_of_one_seed_give_the_same_epoch() -> None:
    def epoch(seed: int) -> torch.Tensor:
        dataset = SliceDataset(CASES, _load, _noise("image"))
        torch.manual_seed(seed)
        return torch.cat([batch["image"] for batch in DataLoader(dataset, batch_size=2, num_workers=1)])

    assert torch.equal(epoch(1), epoch(1))
    assert not torch.equal(epoch(1), epoch(2))


def test_a_transform_without_randomness_can_be_seeded() -> None:
    dataset = SliceDataset(CASES, _load, lambda item: {"image": item["image"] + 1})
    assert dataset.set_random_state(3)[0]["image"].unique().item() == 41


def test_prepared_images_are_scaled_and_keep_their_rows(prepared: list[dict[str, Any]]) -> None:
    dataset = PreparedImageDataset(prepared)
    assert len(dataset) == 2 and set(dataset[0]) == {"image", "slice", "position"}
    expected = np.arange(30, dtype=np.float32).reshape(1, 6, 5)
    np.testing.assert_allclose(dataset[0]["image"], expected / 255)
    np.testing.assert_allclose(dataset[1]["image"], (expected + 200) / 255)
    assert dataset[0]["image"].dtype == torch.float32


def test_colour_comes_first(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = PreparedImageDataset([{"image": tmp_path / "a.png"}])[0]["image"]
    np.testing.assert_allclose(image, np.moveaxis(pixels, -1, 0) / np.float32(255))

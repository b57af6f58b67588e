"""Images in the layout of official downloads, and the steps from a dataset to a planned task."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.data.conftest import write_series
from tskd_monai.data.datalist import load_datalist
from tskd_monai.data.planning.rules import plan_task
from tskd_monai.datasets.dataset import PublicDataset
from tskd_monai.datasets.preparation import prepare_dataset
from tskd_monai.datasets.verification import verify_dataset

__all__ = ["write_series"]  # a fixture, found here by the tests of this folder


@pytest.fixture
def save() -> Callable[..., np.ndarray]:
    """Returns the function that saves an array as an image file, making its folder, and returns the array."""

    def save_image(path: Path, pixels: np.ndarray) -> np.ndarray:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        return pixels

    return save_image


@pytest.fixture
def noise() -> Callable[..., np.ndarray]:
    """Returns the function that draws an 8-bit image from a seed."""

    def draw(seed: int, *shape: int) -> np.ndarray:
        return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)

    return draw


@pytest.fixture
def square() -> Callable[..., np.ndarray]:
    """Returns the function that makes a mask with a square in a corner, 0 and the value given."""

    def make(value: int, *shape: int) -> np.ndarray:
        mask = np.zeros(shape, np.uint8)
        mask[2 : shape[0] // 2, 3 : shape[1] // 2] = value
        return mask

    return make


@pytest.fixture
def prepare(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Returns the function that prepares a dataset, verifies and plans it, and returns its datalist, paths absolute."""

    def prepare_and_plan(dataset: PublicDataset, **options: Any) -> dict[str, Any]:
        path = prepare_dataset(dataset, tmp_path / "prepared", **{"allow_partial": True, **options})
        verify_dataset(path.parent)
        datalist = load_datalist(path)
        task = plan_task(datalist)
        assert {label.value: label.name for label in task.labels} == dataset.description.labels
        assert task.channels == dataset.description.channels
        return datalist

    return prepare_and_plan

"""How a diffusion model sees images that differ from the task's size, and how they are augmented."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tskd_monai.data.slices import SliceDataset
from tskd_monai.data.task import Task
from tskd_monai.synthesis.training_images import diffusion_keys, random_affine
from tskd_monai.transforms.pipelines import training_preprocessing


def test_small_and_mixed_sizes_all_come_at_the_size_of_the_task(tmp_path: Path, make_task: Callable[..., Task]) -> None:
    entries = []
    for rows, columns in ((8, 8), (64, 48), (200, 31), (3, 500)):
        path = tmp_path / f"{rows}x{columns}.png"
        noise = np.random.default_rng(0).integers(0, 256, (rows, columns), dtype=np.uint8)
        Image.fromarray(noise).save(path)
        entries.append({"image": str(path), "case": path.stem})
    task = make_task(axcodes=None, pixdim=(1.0, 1.0), image_size=(32, 32))
    images = SliceDataset(entries, training_preprocessing(task, ["image"]), keys=["image"]).arrays("image")
    assert [tuple(image.shape) for image in images] == [(1, 32, 32)] * 4
    assert all(torch.isfinite(image).all() for image in images)
    assert all(0 <= float(image.min()) < float(image.max()) <= 1 for image in images)


def test_image_and_label_map_move_together() -> None:
    move = random_affine(["image", "label"])
    assert move is not None
    square = torch.zeros(1, 32, 32)
    square[:, 8:24, 8:20] = 1
    move.set_random_state(0)
    moved = move({"image": square, "label": square})
    assert not torch.equal(moved["label"], square)
    assert set(np.unique(moved["label"])) == {0, 1}
    assert float((moved["image"] - moved["label"]).abs().max()) <= 0.5 + 1e-6


def test_strength_0_moves_nothing_and_less_is_refused() -> None:
    assert random_affine(["image"], 0) is None
    with pytest.raises(ValueError, match="--augmentation of at least 0, found -1"):
        random_affine(["image"], -1)


def test_unknown_condition_is_refused() -> None:
    assert diffusion_keys("label_map") == ["image", "label"]
    assert diffusion_keys("slice_position") == ["image"]
    with pytest.raises(ValueError, match="Expected --condition to be one of .*, found 'age'"):
        diffusion_keys("age")

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler

from tskd_monai.data.slices import SliceDataset
from tskd_monai.data.transfer_set import load_transfer_set
from tskd_monai.synthesis.conditions import LabelMaps, SlicePositions
from tskd_monai.synthesis.diffusion import build_unet
from tskd_monai.synthesis.sampling import ImageSampler
from tskd_monai.synthesis.training_images import diffusion_entries, diffusion_keys, random_affine
from tskd_monai.synthesis.transfer_set_writer import write_transfer_set

TASK = "a" * 64


def label_maps(moved: bool = True) -> LabelMaps:
    """Label maps of three slices, with class 1 in one, two and three rows."""
    volume = torch.zeros(1, 16, 16, 3)
    for index in range(3):
        volume[:, 4 : 5 + index, :, index] = 1
    transform = random_affine(["label"]) if moved else None
    return LabelMaps(SliceDataset([{"case": "a"}], lambda item: {"label": volume}, transform, keys=["label"]), 2)


def test_positions_depend_only_on_the_seed_and_fill_the_body() -> None:
    positions = SlicePositions()
    drawn = [positions.draw(seed).position for seed in range(400)]
    assert drawn == [positions.draw(seed).position for seed in range(400)]
    assert min(drawn) < 0.02 and max(drawn) > 0.98
    assert abs(sum(drawn) / 400 - 0.5) < 0.05


def test_label_maps_depend_only_on_the_seed() -> None:
    first, second = label_maps(), label_maps()
    forward = {seed: first.draw(seed) for seed in range(8)}
    backward = {seed: second.draw(seed) for seed in reversed(range(8))}
    for seed in range(8):
        assert torch.equal(forward[seed].label, backward[seed].label)
        assert forward[seed].record == backward[seed].record
    assert len({condition.record["label_map"] for condition in forward.values()}) == 3
    assert first.settings == second.settings
    assert any(not torch.equal(forward[seed].label, label_maps(moved=False).draw(seed).label) for seed in range(8))


def test_no_label_maps_are_refused() -> None:
    with pytest.raises(ValueError, match="labelled training slices for condition label_map, found none"):
        LabelMaps(SliceDataset([], lambda item: {}, keys=["label"]), 2)


def test_images_and_label_maps_are_written_as_pairs_and_continued(
    tmp_path: Path, noise_scheduler: DDPMScheduler
) -> None:
    torch.manual_seed(0)
    unet = build_unet((16, 16), 1, (8, 8), patch_size=2, condition="label_map", num_classes=2)

    def write(folder: Path, number: int) -> Path:
        sampler = ImageSampler(unet, noise_scheduler, (1, 16, 16), 2, 2, conditions=label_maps())
        return write_transfer_set(folder, sampler, number=number, task_hash=TASK)

    write(tmp_path / "grown", 2)
    (tmp_path / "grown/labels/000001.png").write_bytes(b"damaged")
    entries = load_transfer_set(write(tmp_path / "grown", 3), TASK)
    whole = load_transfer_set(write(tmp_path / "whole", 3), TASK)
    for grown, entry in zip(entries, whole, strict=True):
        assert Path(grown["label"]).read_bytes() == Path(entry["label"]).read_bytes()
        assert Path(grown["image"]).read_bytes() == Path(entry["image"]).read_bytes()
        assert grown["condition"] == entry["condition"] and "label_map" in entry["condition"]


def test_other_conditions_and_lists_without_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--condition to be one of"):
        diffusion_keys("text")
    with pytest.raises(ValueError, match="--augmentation of at least 0, found -1"):
        random_affine(["image"], -1)
    assert random_affine(["image"], 0) is None
    (tmp_path / "datalist.json").write_text('{"training": []}')
    with pytest.raises(ValueError, match="datalist.json: expected entries in `training` or `unlabeled`, found none"):
        diffusion_entries(tmp_path / "datalist.json")
    with pytest.raises(ValueError, match="datalist.json: expected entries in `training`, found none"):
        diffusion_entries(tmp_path / "datalist.json", "label_map")

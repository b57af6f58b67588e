"""The script that pre-trains the demo encoder: its images, its prompts, its determinism, its output."""

from __future__ import annotations

import importlib.util
import json
from types import ModuleType

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Generator, Tensor

from tests.support.paths import ROOT
from tskd_monai.networks.promptable import build_promptable

SCRIPT = ROOT / "scripts" / "pretrain_demo_encoder.py"
SIDE = 64


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pretrain_demo_encoder", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def seeded(seed: int) -> Generator:
    return torch.Generator().manual_seed(seed)


def draw(script: ModuleType, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = seeded(seed)
    pieces = script.scenes(4, SIDE, generator)
    return pieces, script.render(pieces, generator), script.prompted_masks(pieces, generator)


def test_images_are_in_range_and_repeat_under_their_seed(script):
    pieces, images, masks = draw(script, 0)
    assert pieces.shape == (4, SIDE, SIDE) and images.shape == (4, 1, SIDE, SIDE)
    assert masks.shape == (4, script.PROMPTS, SIDE, SIDE) and masks.dtype == torch.bool
    assert 0 <= images.min() < 0.3 and 0.7 < images.max() <= 1
    assert all(torch.equal(first, again) for first, again in zip(draw(script, 0), draw(script, 0), strict=True))
    assert not torch.equal(images, draw(script, 1)[1])


def test_pieces_are_numbered_one_after_another_and_prompted_if_large_enough(script):
    pieces, _, masks = draw(script, 2)
    for scene, prompted in zip(pieces, masks, strict=True):
        assert scene.unique().tolist() == list(range(int(scene.max()) + 1))
        assert scene.max() > 5
        for mask in prompted:
            assert mask.sum() >= script.MIN_AREA
            assert len(scene[mask].unique()) == 1


def rectangles() -> Tensor:
    masks = torch.zeros(1, 2, SIDE, SIDE, dtype=torch.bool)
    masks[0, 0, 12:32, 20:60] = True
    masks[0, 1, 40:64, 0:12] = True
    return masks


def test_boxes_are_around_the_masks(script):
    exact = torch.tensor([[20.0, 12, 59, 31], [0, 40, 11, 63]])
    extent = torch.tensor([[40.0, 20, 40, 20], [12, 24, 12, 24]])
    boxes = torch.stack([script.boxes_around(rectangles(), seeded(seed))[0] for seed in range(50)])
    assert (((boxes - exact) / extent).abs() <= 0.2001).all()
    assert boxes.min() >= 0 and boxes.max() <= SIDE - 1
    torch.testing.assert_close(boxes[:, 0].mean(0), exact[0], atol=2.5, rtol=0)


def test_points_have_the_labels_of_their_pixels(script):
    masks = rectangles().repeat(100, 1, 1, 1)
    points, labels = script.points_of(masks, script.boxes_around(masks, seeded(0)), seeded(1))
    assert points.shape == (100, 2, 2, 2) and labels.shape == (100, 2, 2)
    assert set(labels[..., 1].flatten().tolist()) == {-1, 0, 1} and (labels[..., 0] == 1).all()
    for mask, at, known in zip(masks.flatten(0, 1), points.flatten(0, 1).long(), labels.flatten(0, 1), strict=True):
        for (x, y), label in zip(at, known, strict=True):
            assert label == -1 or mask[y, x] == label


@pytest.mark.parametrize("balance", [0.0, 1.0])
def test_right_masks_have_almost_no_loss_and_the_best_of_three_counts(script, balance):
    masks = rectangles()
    right = torch.where(masks[..., ::4, ::4], 20.0, -20.0)[:, :, None]
    iou = torch.ones(1, 2, 1)
    assert script.mask_loss(right, iou, masks, balance) < 1e-4
    wrong = script.mask_loss(-right, iou - 1, masks, balance)
    assert wrong > 1
    several, ious = torch.cat([-right, right, -right], dim=2), torch.tensor([0.0, 1, 0]).expand(1, 2, 3)
    assert script.mask_loss(several, ious, masks, balance) < 1e-4


def test_the_learning_rate_rises_and_falls_to_zero(script):
    fractions = [script.learning_rate_fraction(step, 200) for step in range(200)]
    assert max(fractions) == 1
    assert fractions[0] == 0.25
    assert fractions[-1] < 0.001


def test_the_same_seed_writes_the_same_model_which_loads_and_states_its_origin(script, monkeypatch, tmp_path):
    monkeypatch.setattr(script, "BATCH_SIZE", 2)
    monkeypatch.setattr(script, "HELD_OUT_IMAGES", 2)
    files = [tmp_path / f"{name}.safetensors" for name in ("first", "again", "other")]
    reports = [script.pretrain(2, seed, path) for seed, path in zip((3, 3, 4), files, strict=True)]
    first, again, other = map(load_file, files)
    assert first.keys() == again.keys() and all(torch.equal(first[name], again[name]) for name in first)
    assert reports[0] == reports[1]
    assert any(not torch.equal(first[name], other[name]) for name in first)
    build_promptable("sam_demo", files[0], (SIDE, 96))
    with safe_open(files[0], "pt") as stream:
        metadata = stream.metadata()
    assert metadata["script"] == "scripts/pretrain_demo_encoder.py"
    assert (metadata["seed"], metadata["steps"], metadata["licence"]) == ("3", "2", "Apache-2.0")
    report = json.loads(files[0].with_suffix(".json").read_text())
    assert [point["step"] for point in report["curve"]] == [1, 2]
    assert all(0 <= point["box_iou"] <= 1 and 0 <= point["point_iou"] <= 1 for point in report["curve"])

"""The script that pre-trains the demo encoder: its images, its determinism, its output."""

from __future__ import annotations

import importlib.util
import json
from types import ModuleType

import pytest
import torch
from safetensors import safe_open

from tests.support.paths import ROOT
from tskd_monai.networks.pretrained import build_encoder

SCRIPT = ROOT / "scripts" / "pretrain_demo_encoder.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pretrain_demo_encoder", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def draw(script: ModuleType, seed: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return script.training_batch(*script.flat_scene(4, 64, generator), generator)


def test_images_are_in_range_and_repeat_under_their_seed(script):
    images, scenes, hidden = draw(script, 0)
    assert images.shape == scenes.shape == hidden.shape == (script.BATCH_SIZE, 1, 64, 64)
    for part in (images, scenes, hidden):
        assert part.min() >= 0
        assert part.max() <= 1
    assert all(torch.equal(first, again) for first, again in zip(draw(script, 0), draw(script, 0), strict=True))
    assert not torch.equal(images, draw(script, 1)[0])


def test_hidden_patches_hold_nothing_of_the_image(script):
    images = torch.rand(4, 64, 64)
    shown, hidden = script.hide_patches(images, torch.Generator().manual_seed(0))
    assert torch.equal(shown[hidden == 0], images[hidden == 0])
    assert all(len(one[mask == 1].unique()) <= 1 for one, mask in zip(shown, hidden, strict=True))


def test_a_perfect_restoration_has_no_loss(script):
    scene, hidden = torch.rand(2, 1, 32, 32), (torch.rand(2, 1, 32, 32) < 0.5).float()
    assert script.restoration_loss(scene, scene, hidden) == 0
    assert script.restoration_loss(scene + 0.1, scene, hidden) == pytest.approx(0.15, abs=1e-6)


def test_the_learning_rate_rises_and_falls_to_zero(script):
    fractions = [script.learning_rate_fraction(step, 100) for step in range(100)]
    assert max(fractions) == 1
    assert fractions[0] < 0.3
    assert fractions[-1] < 0.001


def test_the_file_written_loads_and_states_its_origin(script, tmp_path):
    encoder = build_encoder("sam_demo", "random", 128)
    output = tmp_path / "demo.safetensors"
    script.save(encoder, script.summary([0.5] * 45, seed=3), output)
    loaded = build_encoder("sam_demo", output, 128)
    torch.testing.assert_close(loaded.backbone.pos_embed, encoder.backbone.pos_embed, atol=1e-3, rtol=1e-3)
    with safe_open(output, "pt") as stream:
        metadata = stream.metadata()
    assert metadata["script"] == "scripts/pretrain_demo_encoder.py"
    assert (metadata["seed"], metadata["steps"], metadata["licence"]) == ("3", "45", "Apache-2.0")
    assert json.loads(output.with_suffix(".json").read_text())["loss"] == [0.5] * 15

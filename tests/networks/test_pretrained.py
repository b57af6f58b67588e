"""Building encoders from records: strict weights, seeds, errors that say what to pass."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from tskd_monai.networks import pretrained
from tskd_monai.networks.pretrained import ENCODERS, build_encoder, shipped_weights


@pytest.fixture
def demo_state() -> dict[str, torch.Tensor]:
    backbone = build_encoder("sam_demo", "random", 128, seed=5).backbone
    return {f"vision_encoder.{name}": value.clone() for name, value in backbone.state_dict().items()}


def test_records_are_complete():
    for name, record in ENCODERS.items():
        assert record.name == name
        assert record.licence
        assert record.source
        assert record.image_size % 16 == 0


def test_a_random_encoder_repeats_under_its_seed_and_leaves_the_generator_alone():
    state = torch.random.get_rng_state()
    first, again, other = (build_encoder("sam_demo", "random", 96, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["backbone.pos_embed"], other["backbone.pos_embed"])


def test_weights_of_a_file_are_loaded(demo_state, tmp_path):
    save_file(demo_state, tmp_path / "w.safetensors")
    loaded = build_encoder("sam_demo", tmp_path / "w.safetensors", 128).backbone.state_dict()
    assert all(torch.equal(loaded[name], demo_state[f"vision_encoder.{name}"]) for name in loaded)


def test_weights_that_do_not_fit_are_refused(demo_state, tmp_path):
    demo_state["vision_encoder.neck.conv9.weight"] = demo_state.pop("vision_encoder.neck.conv1.weight")
    save_file(demo_state, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"missing neck\.conv1\.weight; unexpected neck\.conv9\.weight"):
        build_encoder("sam_demo", tmp_path / "w.safetensors", 128)


def test_only_the_classifier_of_a_plain_vit_is_dropped(tmp_path):
    state = build_encoder("vit_tiny_patch16", "random", 224).backbone.state_dict()
    state |= {"head.weight": torch.zeros(10, 192), "head.bias": torch.zeros(10)}
    save_file(state, tmp_path / "vit.safetensors")
    encoder = build_encoder("vit_tiny_patch16", tmp_path / "vit.safetensors", (64, 96))
    assert encoder.image_size == (64, 96)
    save_file(state | {"fc_norm.weight": torch.zeros(192)}, tmp_path / "vit.safetensors")
    with pytest.raises(ValueError, match=r"unexpected fc_norm\.weight"):
        build_encoder("vit_tiny_patch16", tmp_path / "vit.safetensors", 64)


def test_vit_tiny_has_its_published_size():
    encoder = build_encoder("vit_tiny_patch16", "random", 224)
    assert sum(value.numel() for value in encoder.parameters()) == 5_717_416 - 1000 * 193


def test_no_weights_where_none_are_shipped_says_what_to_pass():
    with pytest.raises(ValueError, match=r"Weights of sam_vit_base are not shipped: pass .*facebook/sam-vit-base"):
        build_encoder("sam_vit_base", None, 64)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"Expected an encoder out of sam_vit_base, .*sam_demo, found 'sam'"):
        build_encoder("sam", None, 64)


def test_an_installation_without_the_bundles_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(pretrained, "__file__", str(tmp_path / "a" / "b" / "pretrained.py"))
    with pytest.raises(FileNotFoundError, match=r"Expected the shipped weights of sam_demo at .*demo_sam_encoder"):
        shipped_weights("sam_demo")


def test_the_shipped_encoder_is_small_and_trained():
    assert shipped_weights("sam_demo").stat().st_size < 4_000_000
    trained = build_encoder("sam_demo", None, 96).eval()
    random = build_encoder("sam_demo", "random", 96).eval()
    left = torch.full((1, 1, 96, 96), 0.2)
    left[..., :48] = 0.8
    contrast = []
    for encoder in (trained, random):
        with torch.no_grad():
            embeddings = encoder(left).image_embeddings
        within = embeddings[..., :3].std(dim=(2, 3)).mean()
        contrast.append((embeddings[..., :3].mean((2, 3)) - embeddings[..., 3:].mean((2, 3))).abs().mean() / within)
    assert torch.isfinite(torch.stack(contrast)).all()
    assert contrast[0] > 1

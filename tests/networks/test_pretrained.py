"""Building encoders from records: strict weights, seeds, errors that state what to pass."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from tskd_monai.networks import pretrained
from tskd_monai.networks.encoder_records import ENCODERS
from tskd_monai.networks.pretrained import build_encoder, shipped_weights


@pytest.fixture
def demo_state() -> dict[str, torch.Tensor]:
    backbone = build_encoder("sam_demo", "random", 128, seed=5).backbone
    return {f"vision_encoder.{name}": value.clone() for name, value in backbone.state_dict().items()}


def test_records_are_complete():
    for name, record in ENCODERS.items():
        assert record.name == name
        assert record.licence
        assert record.source
        assert record.image_size % 16 == 0 or record.image_size % 14 == 0  # patches of 16 or 14 pixels
        assert all(sha256 is None or len(bytes.fromhex(sha256)) == 32 for sha256 in record.files.values())
        assert record.url is None or record.url.rsplit("/", 1)[-1] in record.files
    names = [name for record in ENCODERS.values() for name in record.files]
    assert len(names) == len(set(names))


def test_a_random_encoder_is_reproducible_and_leaves_the_global_generator_unchanged():
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


def test_weights_at_their_native_size_are_loaded_bit_for_bit(tmp_path):
    state = build_encoder("vit_tiny_patch16", "random", 224, seed=3).backbone.state_dict()
    save_file(state, tmp_path / "w.safetensors")
    loaded = build_encoder("vit_tiny_patch16", tmp_path / "w.safetensors", 224).backbone.state_dict()
    assert all(torch.equal(loaded[name], state[name]) for name in state)
    smaller = build_encoder("vit_tiny_patch16", tmp_path / "w.safetensors", 112).backbone.state_dict()
    assert [name for name in state if not torch.equal(smaller[name], state[name])] == ["pos_embed"]


def test_weights_of_another_encoder_are_refused_naming_it(demo_state, tmp_path):
    save_file(demo_state, tmp_path / "demo.safetensors")
    with pytest.raises(ValueError, match=r"weights of sam_vit_base in .*, found those of sam_demo: choose that encod"):
        build_encoder("sam_vit_base", tmp_path / "demo.safetensors", 64)
    state = build_encoder("vit_tiny_patch16", "random", 224).backbone.state_dict()
    save_file(state, tmp_path / "vit.safetensors")
    with pytest.raises(ValueError, match=r"Expected weights of sam_demo in .*, found those of vit_tiny_patch16:"):
        build_encoder("sam_demo", tmp_path / "vit.safetensors", 64)


def test_weights_of_an_unknown_encoder_are_refused_with_the_reason(demo_state, tmp_path):
    del demo_state["vision_encoder.pos_embed"]
    save_file(demo_state, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"missing pos_embed\. It fits no known encoder"):
        build_encoder("sam_demo", tmp_path / "w.safetensors", 64)


def test_a_published_file_must_have_its_sha256(demo_state, tmp_path, monkeypatch):
    path = tmp_path / "published.safetensors"
    save_file(demo_state, path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(ENCODERS, "sam_demo", replace(ENCODERS["sam_demo"], files={path.name: sha256}))
    build_encoder("sam_demo", path, 64)
    demo_state["vision_encoder.pos_embed"] += 1
    save_file(demo_state, path)
    with pytest.raises(ValueError, match=rf"published\.safetensors to have sha256 {sha256}, found [0-9a-f]{{64}}: "):
        build_encoder("sam_demo", path, 64)
    build_encoder("sam_demo", path.rename(tmp_path / "mine.safetensors"), 64)


def test_an_expected_sha256_is_held_against_any_file(demo_state, tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(demo_state, path)
    build_encoder("sam_demo", path, 64, weights_sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(ValueError, match=r"w\.safetensors to have sha256 0{64}, found "):
        build_encoder("sam_demo", path, 64, weights_sha256="0" * 64)


def test_a_published_file_is_refused_under_another_encoders_name(tmp_path):
    (tmp_path / "sam_vit_b_01ec64.pth").touch()
    with pytest.raises(ValueError, match=r"published file of sam_vit_base; choose encoder sam_vit_base"):
        build_encoder("medsam_vit_base", tmp_path / "sam_vit_b_01ec64.pth", 64)


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


def test_missing_weights_where_none_are_shipped_state_what_to_pass():
    with pytest.raises(ValueError, match=r"Weights of sam_vit_base are not shipped: pass .*facebook/sam-vit-base"):
        build_encoder("sam_vit_base", None, 64)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"Expected an encoder out of sam_vit_base, .*sam_demo, found 'sam'"):
        build_encoder("sam", None, 64)


def test_an_installation_without_the_bundles_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(pretrained, "ROOT", tmp_path)
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

"""LoRA: a no-op when fresh, a frozen base, merged equals unmerged, folders that plain peft reads."""

from __future__ import annotations

import json

import pytest
import torch
from peft import PeftModel
from torch import nn

from tskd_monai.networks.lora import (
    adapter_parameters,
    add_lora,
    base_encoder_sha256,
    has_lora,
    load_adapter,
    merge_lora,
    save_adapter,
)
from tskd_monai.networks.plain_vit import PlainVitArchitecture, PlainVitEncoder

IMAGES = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))


def embeddings(encoder: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return encoder(IMAGES).image_embeddings


def take_a_step(encoder: nn.Module) -> None:
    optimiser = torch.optim.AdamW([value for value in encoder.parameters() if value.requires_grad], lr=1e-2)
    for _ in range(2):
        optimiser.zero_grad()
        (encoder(IMAGES).image_embeddings ** 2 * torch.linspace(-1, 1, 4)).mean().backward()
        optimiser.step()


def test_fresh_lora_changes_no_bit(encoder):
    before = embeddings(encoder)
    assert torch.equal(embeddings(add_lora(encoder)), before)


def test_only_lora_is_trainable_and_every_factor_gets_a_gradient(encoder):
    add_lora(encoder)
    trainable = {name: value for name, value in encoder.named_parameters() if value.requires_grad}
    assert trainable
    assert all(".lora_" in name for name in trainable)
    encoder(IMAGES).image_embeddings.square().mean().backward()
    assert all(value.grad is not None for value in trainable.values())


def test_a_step_changes_the_output_but_not_the_base(encoder):
    before, plain_hash = embeddings(encoder), base_encoder_sha256(encoder)
    add_lora(encoder)
    assert base_encoder_sha256(encoder) == plain_hash
    take_a_step(encoder)
    assert base_encoder_sha256(encoder) == plain_hash
    assert (embeddings(encoder) - before).abs().max() > 1e-4


def test_merged_equals_unmerged(encoder):
    add_lora(encoder)
    take_a_step(encoder)
    unmerged = embeddings(encoder)
    merge_lora(encoder)
    assert not has_lora(encoder)
    torch.testing.assert_close(embeddings(encoder), unmerged, atol=1e-5, rtol=1e-5)


def test_rank_sets_the_number_of_parameters(plain_vit_encoder):
    add_lora(plain_vit_encoder, rank=2, target_modules=["attn.proj"])
    assert adapter_parameters(plain_vit_encoder) == 4 * 2 * (48 + 48)


def test_the_scale_is_alpha_over_rank(plain_vit_encoder):
    add_lora(plain_vit_encoder, rank=4, alpha=6.0)
    assert plain_vit_encoder.backbone.blocks[0].attn.qkv.scaling["default"] == 1.5


def test_an_adapter_survives_its_folder(plain_vit_encoder, tmp_path):
    base = {name: value.clone() for name, value in plain_vit_encoder.state_dict().items()}
    add_lora(plain_vit_encoder)
    take_a_step(plain_vit_encoder)
    save_adapter(plain_vit_encoder, tmp_path / "adapter")
    assert sorted(path.name for path in (tmp_path / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    fresh = PlainVitEncoder(PlainVitArchitecture(48, 4, 3), 64, (0.5,) * 3, (0.5,) * 3).eval()
    fresh.load_state_dict(base)
    load_adapter(fresh, tmp_path / "adapter")
    assert torch.equal(embeddings(fresh), embeddings(plain_vit_encoder))
    assert not any(value.requires_grad for value in fresh.parameters())


def test_plain_peft_loads_the_folder(encoder, tmp_path):
    add_lora(encoder)
    take_a_step(encoder)
    save_adapter(encoder, tmp_path)
    expected = embeddings(encoder)
    encoder.backbone = encoder.backbone.unload()
    encoder.backbone = PeftModel.from_pretrained(encoder.backbone, str(tmp_path))
    torch.testing.assert_close(embeddings(encoder), expected, atol=1e-6, rtol=1e-5)


def test_saving_again_replaces_the_adapter(encoder, tmp_path):
    add_lora(encoder)
    save_adapter(encoder, tmp_path)
    first = (tmp_path / "adapter_model.safetensors").read_bytes()
    take_a_step(encoder)
    save_adapter(encoder, tmp_path)
    assert (tmp_path / "adapter_model.safetensors").read_bytes() != first
    assert len(list(tmp_path.iterdir())) == 2


def test_a_loaded_adapter_can_be_trained_on(encoder, tmp_path):
    add_lora(encoder)
    save_adapter(encoder, tmp_path)
    encoder.backbone = encoder.backbone.unload()
    load_adapter(encoder, tmp_path, trainable=True)
    assert all((".lora_" in name) == value.requires_grad for name, value in encoder.named_parameters())


def test_one_unmatched_target_is_named_although_others_match(encoder):
    with pytest.raises(ValueError, match=r"LoRA target 'attn\.query' matches no layer; choose from attn\.proj, attn"):
        add_lora(encoder, target_modules=["attn.qkv", "attn.query"])


def test_a_target_that_is_also_a_convolution_is_refused(plain_vit_encoder):
    with pytest.raises(ValueError, match=r"'proj' also matches patch_embed\.proj \(Conv2d"):
        add_lora(plain_vit_encoder, target_modules=["proj"])


def test_an_adapter_of_another_depth_is_refused(plain_vit_encoder, tmp_path):
    add_lora(plain_vit_encoder)
    save_adapter(plain_vit_encoder, tmp_path)
    deeper = PlainVitEncoder(PlainVitArchitecture(48, 5, 3), 64, (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(ValueError, match=r"does not fit this encoder: 8 entries differ, the first is .*blocks\.4"):
        load_adapter(deeper, tmp_path)


def test_an_adapter_folder_that_lost_a_file_is_refused(encoder, tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({}))
    with pytest.raises(FileNotFoundError, match=r"Expected adapter_model\.safetensors of a LoRA adapter"):
        load_adapter(encoder, tmp_path)


def test_lora_twice_is_refused(encoder):
    with pytest.raises(ValueError, match="found an adapter in it"):
        add_lora(add_lora(encoder))


def test_rank_zero_is_refused(encoder):
    with pytest.raises(ValueError, match="rank of at least 1, found 0"):
        add_lora(encoder, rank=0)


@pytest.mark.parametrize("function", [merge_lora, adapter_parameters])
def test_what_needs_lora_says_so(encoder, function):
    with pytest.raises(ValueError, match="Expected an encoder with LoRA, found a plain one"):
        function(encoder)

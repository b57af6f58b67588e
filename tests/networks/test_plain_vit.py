"""Plain ViT: agreement with transformers' ViT, positions, published weights."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import ViTConfig, ViTModel

from tskd_monai.networks.pretrained import build_encoder

REAL_WEIGHTS = "vit_tiny_patch16_224_augreg_in21k_ft_in1k.safetensors"


def as_transformers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns timm-named entries under the names of transformers' ViTModel."""
    renamed = {}
    for name, value in state.items():
        if ".attn.qkv." in name:
            for part, chunk in zip(("q", "k", "v"), value.chunk(3), strict=True):
                renamed[name.replace(".attn.qkv.", f".attention.{part}_proj.")] = chunk
        else:
            renamed[name] = value
    mapping = {
        "patch_embed.proj": "embeddings.patch_embeddings.projection",
        "cls_token": "embeddings.cls_token",
        "pos_embed": "embeddings.position_embeddings",
        "blocks.": "layers.",
        ".attn.proj.": ".attention.o_proj.",
        ".norm1.": ".layernorm_before.",
        ".norm2.": ".layernorm_after.",
    }
    for old, new in mapping.items():
        renamed = {name.replace(old, new): value for name, value in renamed.items()}
    return {("layernorm." + n.removeprefix("norm.")) if n.startswith("norm.") else n: v for n, v in renamed.items()}


def test_tokens_are_those_of_transformers_vit(plain_vit_encoder):
    config = ViTConfig(
        hidden_size=48,
        num_hidden_layers=4,
        num_attention_heads=3,
        intermediate_size=192,
        image_size=64,
        layer_norm_eps=1e-6,
    )
    reference = ViTModel(config, add_pooling_layer=False).eval()
    reference.load_state_dict(as_transformers(plain_vit_encoder.backbone.state_dict()))
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        tokens = reference(plain_vit_encoder.normalise(images)).last_hidden_state[:, 1:]
        embeddings = plain_vit_encoder(images).image_embeddings
    torch.testing.assert_close(embeddings.flatten(2).transpose(1, 2), tokens, atol=1e-5, rtol=1e-4)


def test_the_class_token_keeps_its_position(plain_vit_encoder):
    before = plain_vit_encoder.backbone.pos_embed[:, 0].clone()
    plain_vit_encoder.resize_to(96)
    assert plain_vit_encoder.backbone.pos_embed.shape[1] == 1 + 36
    assert torch.equal(plain_vit_encoder.backbone.pos_embed[:, 0], before)


def test_published_weights_load_strictly_and_see_the_image():
    if not (data := os.environ.get("TSKD_REAL_DATA")):
        pytest.skip("TSKD_REAL_DATA is unset: no published weights to load")
    encoder = build_encoder("vit_tiny_patch16", Path(data).parent / "weights" / REAL_WEIGHTS, 96).eval()
    left = torch.zeros(1, 1, 96, 96)
    left[..., :48] = 1
    embeddings = encoder(left).image_embeddings
    assert (embeddings[..., 0] - embeddings[..., -1]).norm() > embeddings.norm() / 10

"""DINOv2 and DINOv3: agreement with transformers, positions, names of the published files.

The authors' own code (facebookresearch/dinov2 at b8931f7, facebookresearch/dinov3 at 6876159) gives the same tokens for
random weights loaded under its names: `tests/interop/compare_encoders.py`.
"""

from __future__ import annotations

import re

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
)

from tests.networks.small_teachers import SMALL_RECORDS
from tskd_monai.networks.dino_encoder import DinoEncoder
from tskd_monai.networks.encoder_records import ENCODERS, EncoderRecord
from tskd_monai.networks.pretrained import build_encoder
from tskd_monai.networks.weights_file import load_strictly

TOLERANCE = 1e-5
DINOV2 = ("small_dinov2", "small_dinov2_registers")
DINOV3 = ("small_dinov3", "small_dinov3_gated")


def transformers_model(record: EncoderRecord) -> nn.Module:
    """Returns a model of transformers with a record's dimensions, every parameter drawn."""
    sizes = record.architecture
    numbers = {
        "hidden_size": sizes.hidden_size, "num_hidden_layers": sizes.depth, "num_attention_heads": sizes.num_heads,
    }  # fmt: skip
    if record.name in DINOV3:
        gated = {"use_gated_mlp": sizes.gated, "hidden_act": "silu" if sizes.gated else "gelu"}
        config = DINOv3ViTConfig(**numbers, **gated, intermediate_size=sizes.mlp_size, num_register_tokens=4)
        model = DINOv3ViTModel(config)
    elif sizes.num_registers:
        config = Dinov2WithRegistersConfig(**numbers, image_size=record.image_size, patch_size=14)
        model = Dinov2WithRegistersModel(config)
    else:
        model = Dinov2Model(Dinov2Config(**numbers, image_size=record.image_size))
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(params=[*DINOV2, *DINOV3])
def record(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> EncoderRecord:
    found = SMALL_RECORDS[request.param]
    monkeypatch.setitem(ENCODERS, found.name, found)
    return found


@torch.no_grad()
def patch_tokens(model: nn.Module, encoder: DinoEncoder, images: Tensor) -> Tensor:
    """Returns what transformers makes of images, resized to 14 pixels a token for DINOv2."""
    pixels = encoder.normalise(images)
    if encoder.backbone.config.patch_size == 14:
        size = tuple(side // 16 * 14 for side in images.shape[-2:])
        pixels = F.interpolate(pixels, size=size, mode="bilinear", antialias=True)
    return model(pixels).last_hidden_state[:, encoder.prefix_tokens :]


@pytest.mark.parametrize("size", [(80, 80), (48, 112)])
def test_a_folder_of_transformers_gives_the_tokens_of_its_model(record, size, tmp_path):
    model = transformers_model(record)
    model.save_pretrained(tmp_path)
    encoder = build_encoder(record.name, tmp_path, size).eval()
    images = torch.rand(2, 3, *size)
    expected = patch_tokens(model, encoder, images)
    with torch.no_grad():
        found = encoder(images).image_embeddings.flatten(2).transpose(1, 2)
    assert expected.std() > 0.5
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("name", DINOV2)
def test_positions_at_the_native_size_are_those_of_the_file(name, monkeypatch, tmp_path):
    record = SMALL_RECORDS[name]
    monkeypatch.setitem(ENCODERS, name, record)
    model = transformers_model(record)
    model.save_pretrained(tmp_path)
    encoder = build_encoder(name, tmp_path, record.image_size // 14 * 16)
    assert torch.equal(encoder.backbone.embeddings.position_embeddings, model.embeddings.position_embeddings)
    smaller = build_encoder(name, tmp_path, (32, 64)).backbone.embeddings.position_embeddings
    assert smaller.shape[1] == 1 + 2 * 4
    assert torch.equal(smaller[:, 0], model.embeddings.position_embeddings[:, 0])


@pytest.mark.parametrize("name", DINOV3)
def test_no_parameter_of_dinov3_depends_on_the_image_size(name):
    record = SMALL_RECORDS[name]
    encoder = record.architecture.build(record.image_size, record.mean, record.std)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    encoder.resize_to((32, 96))
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())


DINOV2_BLOCK = "norm1 attn.qkv attn.proj norm2 mlp.fc1 mlp.fc2"
DINOV3_MLPS = {"small_dinov3": "mlp.fc1 mlp.fc2", "small_dinov3_gated": "mlp.w1 mlp.w2 mlp.w3"}
COMMON = ["cls_token", "mask_token", "patch_embed.proj.weight", "patch_embed.proj.bias", "norm.weight", "norm.bias"]


def authors_names(name: str, depth: int) -> list[str]:
    """Returns the names in the file of the authors, for a model with that many layers."""
    names = list(COMMON)
    if name in DINOV2:
        names += ["pos_embed", *(["register_tokens"] if name == "small_dinov2_registers" else [])]
        layers = DINOV2_BLOCK.split()
    else:
        names += ["storage_tokens", "rope_embed.periods"]
        layers = ["norm1", "attn.qkv", "attn.proj", "norm2", *DINOV3_MLPS[name].split()]
    for block in range(depth):
        names += [f"blocks.{block}.{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]
        names += [f"blocks.{block}.ls{index}.gamma" for index in (1, 2)]
        names += [f"blocks.{block}.attn.qkv.bias_mask"] if name in DINOV3 else []
    return names


def authors_state(record: EncoderRecord) -> dict[str, Tensor]:
    """Returns a file under the authors' names with the shapes of a small encoder; each value is drawn."""
    width, mlp = record.architecture.hidden_size, getattr(record.architecture, "mlp_size", 192)
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "cls_token": (1, 1, width), "mask_token": (1, width), "register_tokens": (1, 4, width),
        "storage_tokens": (1, 4, width), "pos_embed": (1, 26, width),
        "patch_embed.proj.weight": (width, 3, *((14, 14) if record.name in DINOV2 else (16, 16))),
        "attn.qkv.weight": (3 * width, width), "attn.qkv.bias": (3 * width,), "attn.qkv.bias_mask": (3 * width,),
        "attn.proj.weight": (width, width), "mlp.fc1.weight": (mlp, width), "mlp.fc1.bias": (mlp,),
        "mlp.fc2.weight": (width, mlp), "mlp.w1.weight": (mlp, width), "mlp.w1.bias": (mlp,),
        "mlp.w2.weight": (mlp, width), "mlp.w2.bias": (mlp,), "mlp.w3.weight": (width, mlp),
    }  # fmt: skip
    state = {}
    for name in authors_names(record.name, record.architecture.depth):
        shape = shapes.get(re.sub(r"^blocks\.\d+\.", "", name), (width,))
        state[name] = torch.randn(shape, generator=generator)
    if "rope_embed.periods" in state:
        state["rope_embed.periods"] = (100 ** (torch.arange(4) / 4)).bfloat16()
    return state


def test_the_authors_file_loads_strictly(record, tmp_path):
    state = authors_state(record)
    save_file(state, tmp_path / "authors.safetensors")
    loaded = build_encoder(record.name, tmp_path / "authors.safetensors", 80).backbone.state_dict()
    layer = "model.layer.2" if record.name in DINOV3 else "encoder.layer.2"
    width = record.architecture.hidden_size
    for index, part in enumerate("qkv"):
        rows = slice(index * width, (index + 1) * width)
        weight = state["blocks.2.attn.qkv.weight"][rows]
        assert torch.equal(loaded[f"{layer}.attention.{part}_proj.weight"], weight)
        if (part, record.name in DINOV3) != ("k", True):
            assert torch.equal(loaded[f"{layer}.attention.{part}_proj.bias"], state["blocks.2.attn.qkv.bias"][rows])
    assert torch.equal(loaded[f"{layer}.layer_scale2.lambda1"], state["blocks.2.ls2.gamma"])
    if record.name == "small_dinov3_gated":
        for own, theirs in {"gate_proj": "w1", "up_proj": "w2", "down_proj": "w3"}.items():
            assert torch.equal(loaded[f"{layer}.mlp.{own}.weight"], state[f"blocks.2.mlp.{theirs}.weight"])


def test_a_missing_and_an_unknown_entry_are_reported(record):
    state = authors_state(record) | {"blocks.1.adapter": torch.zeros(1)}
    del state["blocks.1.norm2.bias"]
    encoder = record.architecture.build(record.image_size, record.mean, record.std)
    layer = r"(model|encoder)\.layer\.1"
    with pytest.raises(ValueError, match=rf"missing {layer}\.norm2\.bias; unexpected {layer}\.adapter"):
        load_strictly(encoder.backbone, record.architecture.backbone_entries(state, "w.pth"), "w.pth")


def test_rotary_positions_of_another_base_are_refused():
    record = SMALL_RECORDS["small_dinov3"]
    state = authors_state(record) | {"rope_embed.periods": 10 ** (torch.arange(4) / 4)}
    with pytest.raises(ValueError, match=r"Expected rotary positions of base 100 in w\.pth, found other periods"):
        record.architecture.backbone_entries(state, "w.pth")


def test_a_file_of_another_model_is_refused(record):
    with pytest.raises(ValueError, match=r"Expected a DINOv[23].* encoder in w\.pth, found entries such as head"):
        record.architecture.backbone_entries({"head": torch.ones(1)}, "w.pth")

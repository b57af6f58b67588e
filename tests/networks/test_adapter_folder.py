"""Adapter folders: they round-trip strictly; plain peft reads them; only plain LoRA is accepted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tests.support.fork_server import python_command
from tests.support.paths import ROOT
from tskd_monai.networks.adapter_folder import load_adapter, read_adapter_config, save_adapter
from tskd_monai.networks.lora import add_lora, base_state_dict
from tskd_monai.networks.plain_vit import PlainVitArchitecture, PlainVitEncoder
from tskd_monai.networks.pretrained import build_encoder
from tskd_monai.networks.sam_mask_decoder import SamMaskDecoder

IMAGES = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
NAME = "adapter_config.json"
FILES = [NAME, "adapter_model.safetensors"]

PLAIN_PEFT = """
import sys
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tskd_monai.networks.pretrained import build_encoder
from tskd_monai.networks.sam_mask_decoder import SamMaskDecoder

tensors = load_file("inputs.safetensors")
outputs = {}
with torch.no_grad():
    for folder in sys.argv[1:]:
        encoder = build_encoder("sam_demo", "random", 64, seed=5).eval()
        encoder.backbone = PeftModel.from_pretrained(encoder.backbone, folder)
        outputs[folder] = encoder(tensors["images"]).image_embeddings
    decoder = SamMaskDecoder(32, 3, num_heads=4).eval()
    decoder.load_state_dict(load_file("decoder.safetensors"))
    decoder.decoder.transformer = PeftModel.from_pretrained(decoder.decoder.transformer, "decoder")
    outputs["decoder"] = decoder.low_res_logits(tensors["embeddings"])
save_file({name: value.contiguous() for name, value in outputs.items()}, "outputs.safetensors")
"""
ADAPTERS = {
    "lora": {},
    "rslora": {"peft_options": {"use_rslora": True}},
    "dora": {"peft_options": {"use_dora": True}},
    "query_value": {"target_modules": ["attn.qkv"], "qkv_parts": "qv"},
    "last_layers": {"depth": 2},
}


@pytest.fixture
def decoder() -> SamMaskDecoder:
    torch.manual_seed(0)
    return SamMaskDecoder(32, 3, num_heads=4).eval()


def train_a_little(network: nn.Module) -> None:
    """Moves the trainable factors away from zero, as training would."""
    optimiser = torch.optim.AdamW([value for value in network.parameters() if value.requires_grad], lr=1e-2)
    for _ in range(2):
        optimiser.zero_grad()
        forward(network)[:, 1:].square().mean().backward()
        optimiser.step()


def forward(network: nn.Module) -> torch.Tensor:
    if isinstance(network, SamMaskDecoder):
        return network.low_res_logits(embeddings())
    return network(IMAGES).image_embeddings


def output(network: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return forward(network)


def embeddings() -> torch.Tensor:
    return torch.randn(2, 32, 4, 4, generator=torch.Generator().manual_seed(0))


def tiny_vit(depth: int = 4) -> PlainVitEncoder:
    torch.manual_seed(0)
    return PlainVitEncoder(PlainVitArchitecture(48, depth, 3), 64, (0.5,) * 3, (0.5,) * 3).eval()


@pytest.mark.parametrize("arguments", ADAPTERS.values(), ids=ADAPTERS)
def test_an_adapter_survives_its_folder(tmp_path, arguments):
    trained = add_lora(tiny_vit(), **arguments)
    train_a_little(trained)
    save_adapter(trained, tmp_path / "adapter")
    assert sorted(path.name for path in (tmp_path / "adapter").iterdir()) == FILES
    fresh = load_adapter(tiny_vit(), tmp_path / "adapter", qkv_parts=arguments.get("qkv_parts", "qkv"))
    assert torch.equal(output(fresh), output(trained))
    assert not torch.equal(output(fresh), output(tiny_vit()))
    assert not any(value.requires_grad for value in fresh.parameters())


@pytest.mark.parametrize("depth", [6, 7])
def test_more_than_twenty_names_which_peft_shortens_survive_their_folder(tmp_path, depth):
    architecture = PlainVitArchitecture(48, 7, 3)
    encoder = add_lora(PlainVitEncoder(architecture, 64, (0.5,) * 3, (0.5,) * 3).eval(), depth=depth)
    fresh = PlainVitEncoder(architecture, 64, (0.5,) * 3, (0.5,) * 3).eval()
    fresh.backbone.load_state_dict(base_state_dict(encoder.backbone))
    train_a_little(encoder)
    save_adapter(encoder, tmp_path)
    torch.testing.assert_close(output(load_adapter(fresh, tmp_path)), output(encoder), atol=1e-6, rtol=1e-6)


def test_a_decoder_adapter_survives_its_folder(decoder, tmp_path):
    base = {name: value.clone() for name, value in decoder.state_dict().items()}
    train_a_little(add_lora(decoder))
    save_adapter(decoder, tmp_path)
    fresh = SamMaskDecoder(32, 3, num_heads=4).eval()
    fresh.load_state_dict(base)
    torch.testing.assert_close(output(load_adapter(fresh, tmp_path)), output(decoder), atol=1e-6, rtol=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES


def test_plain_peft_in_another_process_gives_the_same_outputs(decoder, tmp_path):
    save_file({"images": IMAGES, "embeddings": embeddings()}, tmp_path / "inputs.safetensors")
    save_file(decoder.state_dict(), tmp_path / "decoder.safetensors")
    expected = {}
    for name, arguments in ADAPTERS.items():
        encoder = add_lora(build_encoder("sam_demo", "random", 64, seed=5).eval(), **arguments)
        train_a_little(encoder)
        save_adapter(encoder, tmp_path / name)
        expected[name] = output(encoder)
    train_a_little(add_lora(decoder))
    save_adapter(decoder, tmp_path / "decoder")
    expected["decoder"] = output(decoder)
    root = ROOT
    command = [python_command(), "-c", f"import sys; sys.path.insert(0, {str(root)!r})\n{PLAIN_PEFT}", *ADAPTERS]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=120)
    found = load_file(tmp_path / "outputs.safetensors")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=1e-6, msg=lambda text, at=name: f"{at}: {text}")


def test_saving_again_replaces_the_adapter(encoder, tmp_path):
    add_lora(encoder)
    save_adapter(encoder, tmp_path)
    first = (tmp_path / FILES[1]).read_bytes()
    train_a_little(encoder)
    save_adapter(encoder, tmp_path)
    assert (tmp_path / FILES[1]).read_bytes() != first
    assert len(list(tmp_path.iterdir())) == 2


def test_the_folder_is_the_same_whatever_order_a_set_has(encoder, tmp_path):
    add_lora(encoder)
    save_adapter(encoder, tmp_path)
    targets = json.loads((tmp_path / FILES[0]).read_text())["target_modules"]
    assert len(targets) > 3 and targets == sorted(targets)


def test_a_loaded_adapter_can_be_trained_on(encoder, tmp_path):
    add_lora(encoder)
    save_adapter(encoder, tmp_path)
    encoder.backbone = encoder.backbone.unload()
    load_adapter(encoder, tmp_path, trainable=True)
    assert all((".lora_" in name) == value.requires_grad for name, value in encoder.named_parameters())


def test_rows_of_the_key_stay_zero_when_training_continues(tmp_path):
    save_adapter(add_lora(tiny_vit(), qkv_parts="qv"), tmp_path)
    loaded = load_adapter(tiny_vit(), tmp_path, trainable=True, qkv_parts="qv")
    train_a_little(loaded)
    save_adapter(loaded, tmp_path)
    rows = [value for name, value in load_file(tmp_path / FILES[1]).items() if name.endswith("qkv.lora_B.weight")]
    assert all(value[:48].any() and not value[48:96].any() and value[96:].any() for value in rows)


def test_an_adapter_of_all_parts_is_no_adapter_of_some(tmp_path):
    encoder = add_lora(tiny_vit())
    train_a_little(encoder)
    save_adapter(encoder, tmp_path)
    with pytest.raises(ValueError, match=r"changes k in base_model.*qkv\.lora_B\.weight, expected q, v only"):
        load_adapter(tiny_vit(), tmp_path, qkv_parts="qv")


def test_an_adapter_of_another_depth_is_refused(tmp_path):
    save_adapter(add_lora(tiny_vit()), tmp_path)
    with pytest.raises(ValueError, match=r"does not fit this network: 8 entries differ, the first is .*blocks\.4"):
        load_adapter(tiny_vit(depth=5), tmp_path)


def test_magnitudes_that_dora_needs_must_be_there(tmp_path):
    save_adapter(add_lora(tiny_vit(), peft_options={"use_dora": True}), tmp_path)
    state = load_file(tmp_path / FILES[1])
    removed = sorted(name for name in state if name.endswith("lora_magnitude_vector"))[0]
    del state[removed]
    save_file(state, tmp_path / FILES[1])
    with pytest.raises(ValueError, match=rf"1 entries differ, the first is {removed} \(expected \(48,\), found absent"):
        load_adapter(tiny_vit(), tmp_path)


def test_an_adapter_that_changes_the_base_is_refused(tmp_path):
    save_adapter(add_lora(tiny_vit()), tmp_path)
    config = json.loads((tmp_path / FILES[0]).read_text())
    (tmp_path / FILES[0]).write_text(json.dumps({**config, "init_lora_weights": "pissa"}))
    with pytest.raises(ValueError, match="init_lora_weights to be one of True, 'gaussian', found 'pissa'"):
        load_adapter(tiny_vit(), tmp_path)


def test_a_folder_that_lost_a_file_is_refused(encoder, tmp_path):
    (tmp_path / FILES[0]).write_text(json.dumps({}))
    with pytest.raises(FileNotFoundError, match=r"Expected adapter_model\.safetensors of a LoRA adapter"):
        load_adapter(encoder, tmp_path)


def test_a_second_adapter_is_refused(encoder, tmp_path):
    save_adapter(add_lora(encoder), tmp_path)
    with pytest.raises(ValueError, match="found an adapter in it; build a new one"):
        load_adapter(encoder, tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_adapter(add_lora(tiny_vit(), rank=2, alpha=3.0, target_modules=["attn.qkv"]), tmp_path)
    return tmp_path


def change(folder: Path, **values: Any) -> None:
    content = json.loads((folder / NAME).read_text())
    (folder / NAME).write_text(json.dumps({**content, **values}))


def test_what_peft_wrote_is_read(folder: Path) -> None:
    config = read_adapter_config(folder / NAME)
    assert (config.r, config.lora_alpha, config.lora_dropout, set(config.target_modules)) == (2, 3.0, 0.0, {"attn.qkv"})
    assert not config.use_dora and config.init_lora_weights is True


def test_no_module_is_imported_that_the_file_names(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "planted.py").write_text("raise SystemExit('the planted module ran')")
    monkeypatch.syspath_prepend(str(folder))
    change(folder, megatron_config={"a": 1}, megatron_core="planted")
    with pytest.raises(ValueError, match=rf"Expected plain LoRA in .*{NAME}, found megatron_config set to"):
        load_adapter(tiny_vit(), folder)
    assert "planted" not in sys.modules


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modules_to_save": ["head"]}, "found modules_to_save set to"),
        ({"rank_pattern": {"attn.qkv": 8}}, "found rank_pattern set to"),
        ({"invented_by_a_later_peft": 1}, "found invented_by_a_later_peft set to 1"),
        ({"peft_type": "IA3"}, "Expected the configuration of a LoRA adapter"),
        ({"r": 0}, "Expected r to be a rank of at least 1, found 0"),
        ({"r": True}, "Expected r to be a rank"),
        ({"lora_alpha": "3"}, "Expected lora_alpha to be a positive number, found '3'"),
        ({"lora_dropout": 1}, "Expected lora_dropout from 0 to below 1"),
        ({"target_modules": "attn.qkv"}, "Expected target_modules to be names of layers"),
        ({"target_modules": [3]}, "Expected target_modules to be names of layers"),
        ({"bias": "all"}, "Expected bias to be none"),
        ({"use_dora": 1}, "Expected the peft option use_dora to be one of False, True"),
    ],
)
def test_an_unsupported_setting_is_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    change(folder, **changes)
    with pytest.raises(ValueError, match=rf"{NAME}.*{message}|{message}.*{NAME}"):
        read_adapter_config(folder / NAME)


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, "\xff"])
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / NAME).write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=NAME) as raised:
        read_adapter_config(tmp_path / NAME)
    assert type(raised.value) is ValueError


def test_a_rank_that_is_not_the_weights_is_refused_before_it_is_built(folder: Path) -> None:
    change(folder, r=10**9)
    with pytest.raises(ValueError, match=r"LoRA adapter in .* does not fit this network: \d+ entries differ"):
        load_adapter(tiny_vit(), folder)

"""An adapter's configuration is read for what we use of it; whatever else peft would obey is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tskd_monai.networks.adapter_folder import load_adapter, read_adapter_config, save_adapter
from tskd_monai.networks.lora import add_lora
from tskd_monai.networks.plain_vit import PlainVitArchitecture, PlainVitEncoder

NAME = "adapter_config.json"


def tiny_vit() -> PlainVitEncoder:
    return PlainVitEncoder(PlainVitArchitecture(48, 4, 3), 64, (0.5,) * 3, (0.5,) * 3).eval()


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
def test_a_setting_that_is_not_ours_is_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
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

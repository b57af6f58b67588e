"""Settings that the job carries are plain values of known options; those of a site are read at the site only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tskd_monai.federated.settings import FOLDER_VARIABLE, FederationSettings, site_settings


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"kind": "diffusion"}, "student, distillation, teacher"),
        ({"rounds": 0}, "rounds of at least 1"),
        ({"transport": "int8"}, "float32 or float16"),
        ({"options": {"datalist": "/data"}}, "options of the federation"),
        ({"options": {"learning_rate": "$__import__('os').system('ls')"}}, "would evaluate"),
        ({"options": {"student": {"_target_": "os.system"}}}, "plain value as student"),
        ({"kind": "teacher", "options": {"tuning": "full"}}, "no encoder travels"),
        ({"seed": -1}, "seed from 0"),
    ],
)
def test_other_settings_are_refused(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        FederationSettings(**{"kind": "student", "rounds": 2, "steps": 3, **changes})


def test_a_round_is_an_epoch_of_the_bundle() -> None:
    settings = FederationSettings("student", rounds=5, steps=40, seed=3, options={"batch_size": 4})
    assert settings.overrides() == {"batch_size": 4, "seed": 3, "max_epochs": 5, "epoch_length": 40}


def test_a_site_reads_its_own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"datalist": "a.json", "output_dir": "out", "encoder_weights": "w.safetensors"}
    (tmp_path / "site-1.json").write_text(json.dumps(own))
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    assert site_settings("site-1") == own
    with pytest.raises(FileNotFoundError, match=r"site-2\.json"):
        site_settings("site-2")
    (tmp_path / "site-2.json").write_text(json.dumps({**own, "learning_rate": 1}))
    with pytest.raises(ValueError, match="Expected datalist, output_dir"):
        site_settings("site-2")


def test_without_the_variable_the_reason_is_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    with pytest.raises(ValueError, match=FOLDER_VARIABLE):
        site_settings("site-1")

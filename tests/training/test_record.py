from __future__ import annotations

import hashlib
import json
import platform
from datetime import datetime, timedelta, timezone
from importlib import metadata
from pathlib import Path

import pytest
import torch

from tskd_monai.training import record
from tskd_monai.training.record import package_versions, write_record


def test_record_states_what_ran_on_what(tmp_path: Path) -> None:
    (tmp_path / "datalist.json").write_bytes(b"abc")
    settings, results = {"seed": 0, "transfer_set": None}, {"val_mean_dice": 0.5}
    inputs = {"datalist": tmp_path / "datalist.json"}
    write_record(tmp_path / "out" / "record.json", "distillation", settings, inputs, results)
    written = json.loads((tmp_path / "out" / "record.json").read_text())
    assert (written["stage"], written["settings"], written["results"]) == ("distillation", settings, results)
    assert written["inputs"] == {"datalist": hashlib.sha256(b"abc").hexdigest()}
    assert written["versions"] == package_versions()
    age = datetime.now(timezone.utc) - datetime.fromisoformat(written["finished"])
    assert timedelta(seconds=-1) <= age < timedelta(minutes=1)


def test_path_among_the_settings_is_not_written_down(tmp_path: Path) -> None:
    settings = {
        "transfer_set": str(tmp_path / "Doe_Jane"),
        "teacher": Path("Doe_Jane"),
        "student": "compact_unet_small",
    }
    write_record(tmp_path / "record.json", "distillation", settings, {}, {})
    assert "Doe" not in (tmp_path / "record.json").read_text()
    written = json.loads((tmp_path / "record.json").read_text())["settings"]
    assert written == {"transfer_set": "(a path)", "teacher": "(a path)", "student": "compact_unet_small"}


def test_versions_are_those_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "RECORDED_PACKAGES", ("torch", "monai", "no-such-package"))
    versions = package_versions()
    assert versions["python"] == platform.python_version()
    assert torch.__version__.startswith(versions["torch"])
    assert versions["monai"] == metadata.version("monai")
    assert versions["no-such-package"] == "not installed"


def test_no_record_without_its_inputs(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.json"):
        write_record(tmp_path / "record.json", "distillation", {}, {"datalist": tmp_path / "gone.json"}, {})
    assert not (tmp_path / "record.json").exists()


def test_a_result_that_is_no_number_leaves_no_record(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_record(tmp_path / "record.json", "distillation", {}, {}, {"val_mean_dice": float("nan")})
    assert list(tmp_path.iterdir()) == []

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tskd_monai.bundle.zoo.hub import files_to_send, hub_card
from tskd_monai.files.json_files import write_json


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """The parts of an exported bundle that the hub uses."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "README.md").write_text("# A student\n\nSee [usage.md](usage.md).\n")
    describe(tmp_path)
    return tmp_path


def describe(folder: Path, **changes: Any) -> None:
    metadata = {"name": "A student", "tags": ["Knowledge Distillation"]}
    licence = {"weights_license": "cc-by-nc-sa-4.0", "non_commercial": True}
    write_json(folder / "configs" / "metadata.json", {**metadata, **licence, **changes})


def test_header_states_licence_and_no_commercial_use(export: Path) -> None:
    _, header, text = hub_card(export).split("---\n")
    assert yaml.safe_load(header) == {
        "license": "cc-by-nc-sa-4.0",
        "library_name": "monai",
        "tags": ["monai", "medical", "knowledge-distillation", "non-commercial"],
        "model_name": "A student",
        "non_commercial": True,
    }
    assert text.strip().startswith("> **Not for commercial use**")
    assert "[usage.md](docs/usage.md)" in text


def test_free_weights_get_no_such_note(export: Path) -> None:
    describe(export, weights_license="apache-2.0", non_commercial=False)
    card = hub_card(export)
    assert "license: apache-2.0" in card
    assert "commercial use" not in card and "- non-commercial" not in card


def test_traces_of_a_run_stay_behind(export: Path) -> None:
    for name in ("eval/schema.json", "scripts/__pycache__/a.pyc", "scripts/a.py", "large_files.yml"):
        (export / name).parent.mkdir(parents=True, exist_ok=True)
        (export / name).write_text("x")
    assert list(files_to_send(export)) == ["configs/metadata.json", "docs/README.md", "scripts/a.py"]


def test_weights_without_a_licence_are_refused(export: Path) -> None:
    write_json(export / "configs" / "metadata.json", {"name": "A student"})
    with pytest.raises(ValueError, match=r"Expected weights_license in .*metadata\.json, found none.*--card"):
        hub_card(export)

"""The benchmark: cells are told apart, a cell runs by the bundles' configs, tables say what the results say."""

from __future__ import annotations

import dataclasses
import importlib
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tskd_monai.data.atomic import read_json, write_json
from tskd_monai.data.phantom_study import write_study

BENCHMARK = Path(__file__).parent.parent.parent / "scripts" / "benchmark"


@pytest.fixture(scope="module", autouse=True)
def benchmark_on_path() -> Iterator[None]:
    sys.path.insert(0, str(BENCHMARK))
    yield
    sys.path.remove(str(BENCHMARK))


def script(name: str) -> ModuleType:
    return importlib.import_module(name)


def result(method: str, seed: int, dice: dict[str, float | None]) -> dict[str, object]:
    """A result in which every patient has one class."""
    rows = [
        {"case": case, "label": 1, "name": "organ", "dice": value, "hd95_mm": 2.0, "nsd": 1.0, "missed": 0}
        for case, value in dice.items()
    ]
    return {"method": method, "seed": seed, "rows": rows, "training": {"trainable_parameters": 1234}}


def test_cells_have_names_of_their_own_and_methods_stand_beside_each_other() -> None:
    cells = script("cells")
    for suite in cells.suite_names():
        of_suite = cells.load_cells(suite)
        assert len({cell.name for cell in of_suite}) == len(of_suite)
        methods = len({cell.method for cell in of_suite})
        assert len({cell.method for cell in of_suite[:methods]}) == methods


def test_a_cell_of_other_settings_is_another_cell() -> None:
    cell = script("cells").load_cells("teacher")[0]
    other = dataclasses.replace(cell, settings={**cell.settings, "learning_rate": 1.0})
    assert cell.config_hash != other.config_hash
    assert cell.config_hash == dataclasses.replace(cell).config_hash


def test_missing_data_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cells = script("cells")
    monkeypatch.setenv("TSKD_REAL_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="chaos_t2spir/datalist.json.*TSKD_REAL_DATA"):
        cells.data_folder(cells.load_cells("teacher")[0])
    monkeypatch.delenv("TSKD_WEIGHTS", raising=False)
    with pytest.raises(FileNotFoundError, match="TSKD_WEIGHTS names .unset."):
        cells.weights_file("vit.safetensors")


def test_seeds_are_averaged_within_a_patient_before_patients_are_compared() -> None:
    tables = script("tables")
    results = [result("ours", 0, {"a": 0.8, "b": 0.6}), result("ours", 1, {"a": 0.6, "b": None})]
    assert tables.patient_means(results, "dice") == {"a": pytest.approx(0.7), "b": pytest.approx(0.6)}
    results += [result("theirs", seed, {"a": 0.5, "b": 0.4}) for seed in (0, 1)]
    lines = tables.dataset_table(results, "ours", {})
    assert lines[2].startswith("| `ours` | 0.650 (0.600 to 0.700) | 2.0 | 0 |  | 1,234 |")
    costs = {name: {"seconds_per_step": step, "peak_mb": 900} for name, step in (("ours", 2.0), ("theirs", 3.0))}
    assert tables.dataset_table(results, "ours", costs, "px")[3].endswith("| 1,234 | 1.50x | 900 MB |")
    assert "| 0.450 (0.400 to 0.500) | 2.0 | 0 | +0.200 (+0.200 to +0.200) |" in lines[3]


def test_only_the_block_between_the_markers_is_replaced() -> None:
    replace_block = script("tables").replace_block
    text = "before\n<!-- benchmark x -->\nold\n<!-- end of benchmark x -->\nafter\n"
    assert replace_block(text, "x", "new") == text.replace("old", "new")
    with pytest.raises(ValueError, match="benchmark y"):
        replace_block(text, "y", "new")


def test_documents_show_the_committed_results() -> None:
    tables = script("tables")
    shown = [suite for suite in script("cells").suite_names() if tables.is_shown(suite)]
    assert "teacher" in shown
    for suite in shown:
        text = tables.document_of(suite).read_text()
        assert tables.replace_block(text, suite, tables.suite_text(suite)) == text


def test_a_cell_trains_and_is_scored_by_the_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = script("cells")
    sections = {"training": 2, "validation": 1, "test": 1}
    write_study(tmp_path / "phantom", seed=3, sections=sections, shape=(48, 48, 8), spacing=(7.2, 7.2, 20.0))
    monkeypatch.setenv("TSKD_REAL_DATA", str(tmp_path))
    monkeypatch.setattr(cells, "RESULTS", tmp_path / "results")
    settings = {"encoder_weights": "shipped", "epoch_length": 2, "max_epochs": 1, "val_interval": 1, "batch_size": 2}
    cell = cells.Cell(
        suite="tiny",
        bundle="teacher_lora",
        score="test",
        dataset="phantom",
        folder="phantom",
        labels=None,
        image_size=48,
        labelled_slices=8,
        fold=None,
        seed=0,
        method="lora",
        settings=settings,
    )
    (tmp_path / "work").mkdir()
    score = script("bundle_cell").run_cell(cell, tmp_path / "work")
    content = read_json(tmp_path / "results" / "tiny" / "phantom-seed0-lora.json")
    assert 0 <= score <= 1
    assert len(content["rows"]) == 4
    assert content["labelled"] == {"patients": 2, "slices": 8}
    assert content["training"]["trainable_parameters"] > 0
    assert str(tmp_path) not in (tmp_path / "results" / "tiny" / "phantom-seed0-lora.json").read_text()
    monkeypatch.setattr(cells, "load_cells", lambda suite: [cell])
    assert script("run").is_finished(cell)
    write_json(cell.result_file, {**content, "config_hash": "another"})
    assert not script("run").is_finished(cell)
    assert math.isfinite(content["seconds"]["training"])

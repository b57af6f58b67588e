"""The benchmark: cells are distinguished, a cell runs by the bundles' configs, tables agree with the results."""

from __future__ import annotations

import dataclasses
import importlib
import io
import json
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.paths import ROOT
from tskd_monai.datasets.phantom.study import write_study
from tskd_monai.evaluation.method_results import patient_means
from tskd_monai.files.checksum import file_sha256
from tskd_monai.files.json_files import read_json

SECTIONS = {"training": 2, "validation": 1, "test": 1}
INTERVAL = re.compile(r"[+-]?0\.\d{3} \([+-]?0\.\d{3} to [+-]?0\.\d{3}\)")  # 0.012 (-0.003 to +0.020)
BENCHMARK = ROOT / "scripts" / "benchmark"


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
    stages = [{"name": method, "results": {"trainable_parameters": 1234}}]
    return {"method": method, "seed": seed, "rows": rows, "stages": stages}


def a_split(**changes: object) -> Any:
    """A small split, with any field changed."""
    fields: dict[str, Any] = {"dataset": "phantom", "folder": "phantom", "labels": None, "image_size": 48}
    fields |= {"labelled_slices": 8, "planned_from": None, "fold": None, "seed": 0}
    return script("cells").Split(**{**fields, **changes})


def a_stage(name: str, **changes: object) -> Any:
    """A stage of the teacher's bundle, with any field changed."""
    fields: dict[str, Any] = {"bundle": "teacher_lora", "configs": ("train.yaml",), "settings": {}, "inputs": {}}
    return script("cells").Stage(**{"name": name, **fields, "label_free": False, **changes})


def test_cells_have_names_of_their_own() -> None:
    cells = script("cells")
    for suite in cells.suite_names():
        of_suite = cells.load_cells(suite)
        assert len({cell.name for cell in of_suite}) == len(of_suite)


def test_results_are_a_line_a_cell_in_the_order_of_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script("cells"), "RESULTS", tmp_path / "results")
    results = script("results")
    assert results.read_results("suite") == {}
    for cell, score in (("b", 1), ("c", 2), ("a", 3), ("b", 4)):
        results.save_result({"suite": "suite", "cell": cell, "score": score})
    lines = results.results_file("suite").read_text().splitlines()
    assert [json.loads(line)["score"] for line in lines] == [3, 4, 2]
    assert lines[0] == '{"suite": "suite", "cell": "a", "score": 3}'
    assert list(results.read_results("suite")) == ["a", "b", "c"]
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["suite.jsonl"]


def test_committed_results_are_as_the_benchmark_writes_them() -> None:
    results = script("results")
    suites = [suite for suite in script("cells").suite_names() if results.results_file(suite).is_file()]
    assert len(suites) > 10  # `student` is yet to be run
    for suite in suites:
        found = results.read_results(suite)
        lines = [json.dumps(found[name]) for name in sorted(found)]
        assert lines and results.results_file(suite).read_text() == "\n".join(lines) + "\n"
        assert {result["suite"] for result in found.values()} == {suite}


def test_a_cell_of_other_settings_is_another_cell() -> None:
    cell = script("cells").load_cells("teacher")[0]
    stage = dataclasses.replace(cell.stage, settings={**cell.stage.settings, "learning_rate": 1.0})
    assert cell.config_hash != dataclasses.replace(cell, stage=stage).config_hash
    assert cell.config_hash != dataclasses.replace(cell, score="validation").config_hash
    assert cell.config_hash == dataclasses.replace(cell).config_hash


def test_what_an_earlier_stage_did_decides_the_later_ones() -> None:
    first, other = a_stage("teacher"), a_stage("teacher", settings={"lora_rank": 2})
    last, of_other = (a_stage("student", inputs={"teacher_dir": stage}) for stage in (first, other))
    assert [stage.name for stage in last.chain()] == ["teacher", "student"]
    assert last.key(a_split()) == dataclasses.replace(last, name="renamed").key(a_split())
    assert last.key(a_split()) != of_other.key(a_split())
    assert last.key(a_split()) != last.key(a_split(labelled_slices=16))


def test_budgets_share_the_stages_that_look_at_no_label() -> None:
    free = a_stage("mae", label_free=True)
    small, large = a_split(planned_from=8), a_split(dataset="more labels", labelled_slices=16, planned_from=8)
    assert free.key(small) == free.key(large)
    assert free.key(small) != free.key(a_split(planned_from=8, seed=1))
    tuned = a_stage("mae_tuned", inputs={"initial_student": free})
    assert tuned.key(small) != tuned.key(large)


def test_a_larger_budget_has_the_task_of_the_one_it_is_planned_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_study(tmp_path / "phantom", seed=3, sections=SECTIONS, shape=(48, 48, 8), spacing=(7.2, 7.2, 20.0))
    monkeypatch.setenv("TSKD_REAL_DATA", str(tmp_path))
    workplace = script("stages").Workplace(tmp_path / "work")
    planned = [workplace.dataset(a_split(labelled_slices=budget, planned_from=4)) for budget in (4, 12)]
    small, large = (of_split.task_file.read_text() for of_split in planned)
    assert small == large
    labelled = [read_json(of_split.datalist)["training"] for of_split in planned]
    assert [sum(len(entry["slices"]) for entry in entries) for entries in labelled] == [4, 12]


def test_missing_data_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cells = script("cells")
    monkeypatch.setenv("TSKD_REAL_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="chaos_t2spir/datalist.json.*TSKD_REAL_DATA"):
        cells.data_folder(a_split(folder="chaos_t2spir"))
    monkeypatch.delenv("TSKD_WEIGHTS", raising=False)
    with pytest.raises(FileNotFoundError, match="TSKD_WEIGHTS names .unset."):
        cells.weights_file("vit.safetensors")


def test_seeds_are_averaged_within_a_patient_before_patients_are_compared() -> None:
    tables = script("tables")
    results = [result("ours", 0, {"a": 0.8, "b": 0.6}), result("ours", 1, {"a": 0.6, "b": None})]
    assert patient_means(results, "dice") == {"a": pytest.approx(0.7), "b": pytest.approx(0.6)}
    results += [result("theirs", seed, {"a": 0.5, "b": 0.4}) for seed in (0, 1)]
    heads, _, ours, theirs = tables.accuracy_table(results, "ours", {})
    assert "NSD at 2 mm" in heads and "HD95 (mm), without largest-component filter" in heads
    assert ours == "| `ours` | 0.650 (0.600 to 0.700) |  | 1.000 |  | 2.0 | 0 |"
    assert "| 0.450 (0.400 to 0.500) | +0.200 (+0.200 to +0.200) | 1.000 | +0.000 (+0.000 to +0.000) |" in theirs
    heads = tables.accuracy_table(results, "ours", {"unit": "px", "largest_component": True})[0]
    assert "NSD at 2 px" in heads and "HD95 (px), largest component" in heads
    costs = {name: {"seconds_per_step": step, "peak_mb": 900} for name, step in (("ours", 2.0), ("theirs", 3.0))}
    assert tables.cost_table(results, "ours", costs)[3] == "| `theirs` | 1,234 | 1.50x | 900 MB |"


def test_the_patients_of_the_recipe_are_left_out_of_the_primary_analysis() -> None:
    tables = script("tables")
    content = {"reference": "ours", "primary": ["scratch"], "pairs": [["scratch", "ours"]]}
    results = [
        result("ours", 0, {"recipe": 0.9, **{str(case): 0.5 + case / 50 for case in range(6)}}),
        result("scratch", 0, {"recipe": 0.1, **{str(case): 0.6 + case / 50 for case in range(6)}}),
    ]
    unseen = tables.without_patients(results, ["recipe"])
    assert tables.accuracy_table(unseen, "ours", {})[3].startswith("| `scratch` | 0.650")
    assert "`scratch` minus `ours` +0.100 (+0.100 to +0.100)" in tables.findings(unseen, content)[1]
    assert "`scratch` minus `ours` -0.029" in tables.findings(results, content)[1]


def test_the_patients_of_the_recipe_are_those_that_it_was_chosen_on() -> None:
    cells, tables = script("cells"), script("tables")
    chosen_by = {
        "teacher": ["teacher_learning_rates"],
        "distillation": ["distillation_recipe", "distillation_learning_rates", "synthetic_images"],
        "vit_student": ["distillation_recipe", "vit_student_learning_rates"],
    }
    for suite, recipes in chosen_by.items():
        scored = [found for recipe in recipes for found in tables.load_results(recipe)]
        assert {found["score"] for found in scored} == {"validation"}
        cases = {row["case"] for found in scored for row in found["rows"]}
        folders = {dataset["folder"] for dataset in cells.read_suite(suite)["datasets"].values()}
        assert "chaos_t2spir" in folders
        assert set(script("recipe").recipe_patients("chaos_t2spir", suite)) == cases


def test_holm_is_over_the_family_that_is_named() -> None:
    tables = script("tables")
    content = {"reference": "ours", "primary": ["scratch"]}
    levels = {"ours": 0.7, "scratch": 0.65, "mae": 0.6}
    results = [result(name, 0, {str(case): level + case / 50 for case in range(8)}) for name, level in levels.items()]
    (line,) = tables.findings(results, content)
    assert "Holm over these 1: Dice `scratch` p = 0.008; NSD `scratch` p = 1.000" in line
    assert "Dice, Holm over all 2 rows: `scratch` p = 0.016, `mae` p = 0.016" in line


def test_intervals_in_the_documents_are_those_of_the_tables() -> None:
    tables, root = script("tables"), BENCHMARK.parents[1]
    suites = [suite for suite in script("cells").suite_names() if tables.is_shown(suite)]
    documents = {root / "bundles" / "distillation" / "docs" / "pipeline.md"}
    documents |= {root / "README.md", root / "bundles" / "segmentation" / "docs" / "which_option.md"}
    texts = {path: path.read_text() for path in documents | {tables.document_of(suite) for suite in suites}}
    blocks = [block for text in texts.values() for block in re.findall(r"<!-- benchmark .*?<!-- end", text, re.DOTALL)]
    shown = {interval.replace("+", "") for block in blocks for interval in INTERVAL.findall(block)}
    demo = [row for path in demo_results() for row in read_json(path)["student_minus"].values()]
    shown |= {f"{row['mean']:.3f} ({row['interval_95'][0]:.3f} to {row['interval_95'][1]:.3f})" for row in demo}
    quoted = {
        interval: path.name
        for path, text in texts.items()
        for interval in INTERVAL.findall(" ".join(re.sub(r"<!-- benchmark .*?<!-- end", "", text, flags=re.S).split()))
    }
    assert len(quoted) > 10
    assert not {interval: name for interval, name in quoted.items() if interval.replace("+", "") not in shown}


def demo_results() -> list[Path]:
    """Returns the committed files of demo runs."""
    return sorted(script("demo_seeds").RESULTS.glob("*.json"))


def test_the_page_of_the_pipeline_shows_the_committed_demo_runs() -> None:
    demo = script("demo_seeds")
    page = (BENCHMARK.parents[1] / "bundles" / "distillation" / "docs" / "pipeline.md").read_text()
    told = " ".join(page.split())
    assert demo_results()
    for path in demo_results():
        content = read_json(path)
        assert len(content["runs"]) == 5 and all(
            len(dice) == 8 for run in content["runs"] for dice in run["dice"].values()
        )
        assert demo.table(content["runs"]) in page
        assert content["student_minus"] == demo.differences(content["runs"])
        for row in content["student_minus"].values():
            low, high = row["interval_95"]
            assert f"{row['mean']:+.3f} ({low:.3f} to {high:.3f}), higher on {row['higher']} of 40" in told


def test_demo_runs_of_several_encoders_are_joined_by_seed() -> None:
    demo = script("demo_seeds")
    dice = {"a": 0.5, "b": 0.7}
    runs = [
        {"seed": seed, "dice": {"x: distilled student": {case: value + seed / 10 for case, value in dice.items()}}}
        for seed in (1, 0)
    ]
    runs[0]["dice"]["from scratch"] = runs[1]["dice"]["from scratch"] = dice
    runs += [{"seed": seed, "dice": {"y: distilled student": {"a": 0.4, "b": 0.6}}} for seed in (0, 1)]
    joined = demo.by_seed(runs)
    assert [run["seed"] for run in joined] == [0, 1]
    assert list(joined[0]["dice"]) == ["x: distilled student", "y: distilled student", "from scratch"]
    found = demo.differences(joined)
    # means of the seeds: 0 and 0.1; t with one degree of freedom is 12.706, the standard error 0.05
    assert found["from scratch"] == {"mean": 0.05, "interval_95": [-0.585, 0.685], "higher": 2, "patients": 4}
    assert found["y: distilled student"]["mean"] == 0.15


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
        assert tables.replace_block(text, suite, tables.suite_text(suite, tables.shown_results(suite))) == text


def test_documents_show_figures_of_the_committed_results() -> None:
    cells, tables, figures = script("cells"), script("tables"), script("figures")
    shown = {suite: methods for suite in cells.suite_names() if (methods := cells.read_suite(suite).get("figure"))}
    assert "distillation" in shown
    for suite, methods in shown.items():
        document = tables.document_of(suite)
        for dataset, results in tables.shown_results(suite).items():
            assert figures.picture(suite, dataset) in document.read_text()
            chart = figures.patients_figure(results, methods)
            for scheme, content in zip(figures.SCHEMES, (chart.light, chart.dark), strict=True):
                committed = pixels(document.with_name(figures.file_name(suite, dataset, scheme)).read_bytes())
                drawn = pixels(content)
                assert committed.shape == drawn.shape
                assert np.abs(committed - drawn).max() < 64, "draw it again: scripts/benchmark/tables.py"


def test_overviews_quote_the_committed_results() -> None:
    tables, root = script("tables"), BENCHMARK.parents[1]
    all_patients = tables.shown_results("distillation")["chaos_25"]
    unseen = tables.without_patients(all_patients, script("recipe").recipe_patients("chaos_t2spir"))

    def mean(results: list[Any], method: str, metric: str) -> str:
        of_method = [found for found in results if found["method"] == method]
        return f"{fmean(patient_means(of_method, metric).values()):.3f}"

    which_option = (root / "bundles" / "segmentation" / "docs" / "which_option.md").read_text()
    compared = ("teacher", "ts_kd", "pseudo_labelled", "scratch", "task_agnostic", "mae", "moco_v3", "planned_unet")
    for method in compared:
        row = (mean(unseen, method, "dice"), mean(unseen, method, "nsd"), mean(all_patients, method, "dice"))
        assert f" | {' | '.join(row)} | " in which_option, method
    student, self_trained, scratch, teacher = (
        mean(unseen, method, "dice") for method in ("ts_kd", "pseudo_labelled", "scratch", "teacher")
    )
    quoted = f"Dice {student}; self-training {self_trained}, from scratch {scratch}, teacher {teacher}: no gain shown"
    assert quoted in (root / "README.md").read_text()


def test_the_model_card_shows_the_committed_scores_of_the_shipped_weights() -> None:
    root = BENCHMARK.parents[1]
    bundle = root / "bundles" / "segmentation"
    scored = read_json(BENCHMARK / "results" / "shipped_student" / "test.json")
    assert scored["model_sha256"] == file_sha256(bundle / "models" / "model.pt")
    means = {
        metric: {
            name: fmean(row[metric] for row in scored["rows"] if row["name"] == name)
            for name in ("liver", "right kidney", "left kidney", "spleen")
        }
        for metric in ("dice", "hd95_mm", "nsd")
    }
    cells = [f"{value:.3f}" for value in (*means["dice"].values(), fmean(means["dice"].values()))]
    cells += [f"{fmean(means['hd95_mm'].values()):.1f} mm", f"{fmean(means['nsd'].values()):.3f}"]
    assert f"| {' | '.join(cells)} |" in (bundle / "docs" / "model_card.md").read_text()
    assert f"Dice {fmean(means['dice'].values()):.3f} on three patients" in (root / "README.md").read_text()


def pixels(png: bytes) -> np.ndarray:
    """The colours of a PNG, (H, W, 4), as a signed type that can be subtracted."""
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"), dtype=np.int16)


def test_a_figure_of_a_suite_that_is_running_shows_what_there_is() -> None:
    figures = script("figures")
    results = [result("ts_kd", 0, {"1": 0.8, "2": None}), result("ts_kd", 1, {"1": 0.7, "2": 0.5})]
    chart = figures.patients_figure(results, ["teacher", "ts_kd"])
    assert chart.light != chart.dark
    assert chart.light == figures.patients_figure(results, ["ts_kd"]).light


def test_a_budget_without_a_gap_is_not_counted() -> None:
    tables = script("tables")
    content = {"reference": "ours", "primary": ["scratch"], "gap": {"teacher": "teacher", "scratch": "scratch"}}
    levels = {"ours": 0.61, "scratch": 0.6, "teacher": 0.61}
    results = [result(name, 0, {str(case): level + case / 50 for case in range(6)}) for name, level in levels.items()]
    holm_line, gap_line = tables.findings(results, content)
    assert "Holm over these 1: Dice `scratch` p = 0.031" in holm_line
    assert "nothing to distil is shown here" in gap_line
    results[2] = result("teacher", 0, {str(case): 0.7 + case / 50 for case in range(6)})
    assert "`ours` closes 10% (10% to 10%) of it" in tables.findings(results, content)[1]


@pytest.mark.slow
def test_a_cell_runs_its_stages_once_and_is_scored_by_the_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = script("cells")
    write_study(tmp_path / "phantom", seed=3, sections=SECTIONS, shape=(48, 48, 8), spacing=(7.2, 7.2, 20.0))
    monkeypatch.setenv("TSKD_REAL_DATA", str(tmp_path))
    monkeypatch.setattr(cells, "RESULTS", tmp_path / "results")
    short = {"epoch_length": 2, "max_epochs": 1, "val_interval": 1, "batch_size": 2}
    teacher = a_stage("lora", settings={"encoder_weights": "shipped", **short})
    distilled = a_stage("distilled", bundle="distillation", settings=short, inputs={"teacher_dir": teacher})
    run_cell = script("cell_run").run_cell
    of_teacher, of_student = (cells.Cell("tiny", "test", a_split(), stage) for stage in (teacher, distilled))
    assert 0 <= run_cell(of_teacher, tmp_path / "work") <= 1
    made = next((tmp_path / "work").glob("*teacher_lora*/teacher.json")).stat().st_mtime_ns
    assert 0 <= run_cell(of_student, tmp_path / "work") <= 1
    assert next((tmp_path / "work").glob("*teacher_lora*/teacher.json")).stat().st_mtime_ns == made
    results = script("results")
    content = results.read_results("tiny")["phantom-seed0-distilled"]
    assert len(content["rows"]) == 4
    assert content["labelled"] == {"patients": 2, "slices": 8}
    assert [stage["name"] for stage in content["stages"]] == ["lora", "distilled"]
    assert content["stages"][0]["results"]["trainable_parameters"] > 0
    assert content["stages"][1]["results"]["parameters"] > 0
    assert str(tmp_path) not in results.results_file("tiny").read_text()
    assert script("run").unfinished("tiny", [of_teacher, of_student]) == []
    results.save_result({**content, "config_hash": "another"})
    assert script("run").unfinished("tiny", [of_teacher, of_student]) == [of_student]
    assert math.isfinite(content["evaluation_seconds"])

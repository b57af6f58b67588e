"""The second protocol: recipe patients, equal multiply-adds, seeds, kept predictions and tables made from them."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.scripts.test_benchmark import BENCHMARK, SECTIONS, a_split, benchmark_on_path, result, script
from tests.support.paths import ROOT
from tskd_monai.bundle.training_length import training_length
from tskd_monai.datasets.phantom.study import write_study
from tskd_monai.files.json_files import read_json
from tskd_monai.networks.cost import multiply_adds
from tskd_monai.networks.students import build_student

__all__ = ["benchmark_on_path"]  # the fixture
DOCUMENT = "<!-- benchmark tiny -->\n<!-- end of benchmark tiny -->\n"
SCRATCH = {"configs": ["fine_tune.yaml", "scratch.yaml"], "fraction": 1}
SUITE: dict[str, Any] = {
    "protocol": 2,
    "score": "test",
    "reference": "ours",
    "primary": ["scratch"],
    "document": "tables.md",
    "image_size": 48,
    "multiply_adds": {"student": 1.25e9, "teacher": 3e9},
    "datasets": {
        "phantom": {"folder": "phantom", "labelled_slices": 8, "seeds": [0], "largest_component": True},
    },
    "defaults": {"bundle": "distillation", "settings": {"batch_size": 2, "max_epochs": 2, "val_interval": 2}},
    "stages": {
        "ours": {**SCRATCH, "settings": {"learning_rate": 0.01}},
        "scratch": {**SCRATCH, "settings": {"learning_rate": 0.002}},
    },
}


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the suite `tiny`, with its results, document and recipe patients; the phantom's data in `data`."""
    cells = script("cells")
    monkeypatch.setattr(cells, "FOLDER", tmp_path)
    monkeypatch.setattr(cells, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(script("recipe"), "FILE", tmp_path / "recipe_patients.yaml")
    monkeypatch.setattr(script("tables"), "ROOT", tmp_path)
    monkeypatch.setenv("TSKD_REAL_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("TSKD_PREDICTIONS", str(tmp_path / "predictions"))
    (tmp_path / "tables.md").write_text(DOCUMENT)
    write_recipe(tmp_path, ["nobody"])
    write_suite(tmp_path)
    return tmp_path


def write_suite(folder: Path, **changes: Any) -> None:
    (folder / "suites").mkdir(exist_ok=True)
    (folder / "suites" / "tiny.yaml").write_text(yaml.safe_dump({**SUITE, **changes}, sort_keys=False))


def write_recipe(folder: Path, patients: list[str]) -> None:
    (folder / "recipe_patients.yaml").write_text(yaml.safe_dump({"phantom": patients, "first_round": {}}))


def write_data(folder: Path, **sections: int) -> None:
    shape, spacing = (48, 48, 8), (7.2, 7.2, 20.0)
    write_study(folder / "data" / "phantom", seed=3, sections={**SECTIONS, **sections}, shape=shape, spacing=spacing)


def write_tables(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["tables.py", "tiny", *arguments])
    script("tables").main()


def test_a_suite_is_run_kept_and_scored_again(
    suite: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_data(suite, test=2)
    datalist = read_json(suite / "data" / "phantom" / "datalist.json")
    seen, unseen = (entry["case"] for entry in datalist["test"])
    write_recipe(suite, [seen])
    cells = script("cells").load_cells("tiny")
    assert [cell.name for cell in cells] == ["phantom-seed0-t0-s0-ours", "phantom-seed0-t0-s0-scratch"]
    for cell in cells:
        script("cell_run").run_cell(cell, suite / "work")
    results = script("results").read_results("tiny")
    spent = {one["stages"][0]["multiply_adds"]["total"] for one in results.values()}
    assert len(spent) == 1 and spent.pop() == pytest.approx(1.25e9, rel=0.02)
    first = results[cells[0].name]
    assert {row["case"] for row in first["rows"]} == {unseen} and first["readings"] == 1
    assert first["stages"][0]["settings"]["epoch_length"] * 2 == first["stages"][0]["multiply_adds"]["steps"]
    (kept,) = first["predictions"]
    file = script("predictions").predictions_folder(cells[0]) / kept
    assert file.is_file() and kept.endswith("_seg.nii.gz")

    write_tables(monkeypatch)
    table = (suite / "tables.md").read_text()
    assert "`test` read once" in table and "| `scratch` |" in table and "HD95 (mm), largest component" in table
    script("results").save_result({**first, "rows": [{**row, "dice": 0.123} for row in first["rows"]]})
    shutil.move(suite / "predictions", suite / "moved")
    write_tables(monkeypatch, "--from-predictions", str(suite / "moved"))
    again = script("results").read_results("tiny")[cells[0].name]
    assert again["rows"] == first["rows"] and again["readings"] == 3
    assert (suite / "tables.md").read_text() == table.replace("`test` read once", "`test` read up to 3 times")

    moved = suite / "moved" / file.relative_to(suite / "predictions")
    os.truncate(moved, moved.stat().st_size - 1)
    with pytest.raises(SystemExit):
        write_tables(monkeypatch, "--from-predictions", str(suite / "moved"))
    assert "with the SHA-256" in capsys.readouterr().err
    write_recipe(suite, [unseen])
    with pytest.raises(ValueError, match=f"no recipe patient in results/tiny.jsonl.*{unseen}.*recipe_patients.yaml"):
        script("tables").load_results("tiny")


def test_predictions_are_never_kept_in_the_repository(suite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = script("cells").load_cells("tiny")[0]
    for folder in ("", str(ROOT / "scripts" / "benchmark")):
        monkeypatch.setenv("TSKD_PREDICTIONS", folder)
        with pytest.raises(ValueError, match="TSKD_PREDICTIONS .*outside the repository"):
            script("predictions").predictions_folder(cell)


def test_a_suite_that_chooses_scores_only_recipe_patients(suite: Path) -> None:
    write_suite(suite, score="validation")
    cell = script("cells").load_cells("tiny")[0]
    content = {"validation": [{"case": "a"}, {"case": "b"}], "test": [{"case": "a"}, {"case": "b"}]}
    write_recipe(suite, ["a"])
    with pytest.raises(ValueError, match=r"only recipe patients in phantom-seed0.*found b; recipe_patients.yaml"):
        script("predictions").scored_entries(cell, content)
    write_recipe(suite, ["a", "b"])
    assert len(script("predictions").scored_entries(cell, content)) == 2
    write_suite(suite)
    with pytest.raises(ValueError, match="found only recipe patients"):
        script("predictions").scored_entries(script("cells").load_cells("tiny")[0], content)
    (suite / "recipe_patients.yaml").write_text("first_round: {}")
    with pytest.raises(ValueError, match="recipe patients of phantom in recipe_patients.yaml, found none"):
        script("predictions").scored_entries(cell, content)


def test_the_recipe_patients_are_sections_of_the_datasets() -> None:
    recipe = yaml.safe_load((BENCHMARK / "recipe_patients.yaml").read_text())
    assert {folder: len(cases) for folder, cases in recipe.items() if folder != "first_round"} == {
        "chaos_t2spir": 4, "ph2": 30, "hc18": 30, "msd_hippocampus": 30
    }  # fmt: skip
    if not (data := os.environ.get("TSKD_REAL_DATA")):
        pytest.skip("needs the datasets")
    for folder in ("ph2", "hc18", "msd_hippocampus"):
        datalist = read_json(Path(data) / folder / "datalist.json")
        assert sorted(recipe[folder]) == sorted(entry["case"] for entry in datalist["validation"])


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({**SCRATCH, "settings": {"precision": "bfloat16"}}, "float32 in stage ours, found bfloat16"),
        ({**SCRATCH, "settings": {"epoch_length": 10}}, "no epoch_length"),
        ({"configs": SCRATCH["configs"]}, "expected a `fraction` in stage ours"),
        ({**SCRATCH, "fraction": 0.5}, "fractions that add up to 1 in ours"),
        ({**SCRATCH, "kind": "assistant"}, "Stage ours: expected a kind"),
    ],
)
def test_what_would_make_methods_unequal_is_refused(suite: Path, stage: dict[str, Any], message: str) -> None:
    write_suite(suite, stages={**SUITE["stages"], "ours": stage})
    with pytest.raises(ValueError, match=message):
        script("cells").load_cells("tiny")


def test_seeds_of_teachers_and_students_vary_only_where_they_matter(suite: Path) -> None:
    dataset = {**SUITE["datasets"]["phantom"], "teacher_seeds": [0, 1, 2], "student_seeds": [0, 1]}
    teacher = {"bundle": "teacher_lora", "configs": ["train.yaml"], "kind": "teacher", "fraction": 1}
    stages = {
        "teacher": teacher,
        "second": {**teacher, "member": 1},
        "targets": {"configs": ["targets.yaml"], "kind": "teacher", "inputs": {"teacher_dirs": ["teacher", "second"]}},
        "ours": {"configs": ["train.yaml"], "inputs": {"targets": "targets"}, "fraction": 1},
        "scratch": SCRATCH,
    }
    write_suite(suite, datasets={"phantom": dataset}, stages=stages, methods=["teacher", "ours", "scratch"])
    cells = script("cells").load_cells("tiny")
    of_method = {name: [cell for cell in cells if cell.method == name] for name in ("teacher", "ours", "scratch")}
    assert {name: len(found) for name, found in of_method.items()} == {"teacher": 3, "ours": 6, "scratch": 2}
    assert len({cell.config_hash for cell in cells}) == 11
    first, other = of_method["ours"][0], of_method["ours"][1]
    chain = {stage.name: stage for stage in first.stage.chain()}
    assert list(chain) == ["teacher", "second", "targets", "ours"]
    assert [chain[name].seed(other.split) for name in chain] == [0, 100, 0, 1]
    assert chain["targets"].key(first.split) == chain["targets"].key(other.split)
    assert chain["targets"].key(first.split) != chain["targets"].key(of_method["ours"][2].split)


def test_a_step_that_trains_every_weight_costs_three_forward_passes(suite: Path) -> None:
    write_data(suite)
    workplace = script("stages").Workplace(suite / "work")
    task_file = workplace.dataset(a_split()).task_file
    configs = ROOT / "bundles" / "distillation" / "configs"
    options = {"task": task_file, "batch_size": 2, "max_epochs": 5, "device": torch.device("cpu")}
    counted = training_length([configs / "fine_tune.yaml", configs / "scratch.yaml"], options, 1e10, images=8)
    student = build_student("compact_unet_small", 1, 5, (48, 48))
    assert counted["of_a_step"] == pytest.approx(2 * 3 * multiply_adds(student, (1, 1, 48, 48)), rel=0.02)
    assert counted["total"] == counted["of_a_step"] * counted["steps"] == pytest.approx(1e10, rel=0.02)
    with pytest.raises(ValueError, match="a budget that whole steps can spend"):
        training_length([configs / "fine_tune.yaml", configs / "scratch.yaml"], options, 1e7, images=8)
    teacher = training_length([ROOT / "bundles" / "teacher_lora" / "configs" / "train.yaml"], options, 1e11, images=8)
    assert teacher["of_targets"] == 0 and teacher["total"] == pytest.approx(1e11, rel=0.02)


def test_the_primary_family_is_corrected_over_methods_and_endpoints() -> None:
    levels = {"ours": 0.7, "self_trained": 0.6, "scratch": 0.68}
    results = [
        {
            **result(name, 0, {str(case): level + case / 50 + (case % 3) * level / 50 for case in range(8)}),
            "protocol": 2, "fold": None, "teacher_seed": 0, "student_seed": seed,
        }
        for name, level in levels.items()
        for seed in range(2)
    ]  # fmt: skip
    content = {"reference": "ours", "primary": ["self_trained", "scratch"]}
    (line,) = script("tables").findings(results, content)
    assert "Holm over these 4: minus `self_trained` Dice +0.102 (+0.100 to +0.103), p < 0.001" in line
    assert "minus `scratch` NSD +0.000 (+0.000 to +0.000), p = 1.000" in line

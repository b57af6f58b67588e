"""The learning curve of a tiny dataset: nested slices, no test patient read, finished points not trained again."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from tests.evaluation.html_page import Page
from tests.support.fork_server import python_command
from tests.support.paths import ROOT
from tskd_monai.commands.curve.command import parse_arguments
from tskd_monai.commands.curve.points import Point, curve_points, point_datalist, point_stages
from tskd_monai.commands.main import main
from tskd_monai.commands.train.options import load_preset
from tskd_monai.commands.train.stages import PipelineOptions, PlannedDataset, StageBuilder
from tskd_monai.datasets.phantom.study import write_study
from tskd_monai.files.json_files import read_json, write_json

STEP = {"epoch_length": 1, "max_epochs": 1, "val_interval": 1, "batch_size": 2}
PRESET = {
    "image_size": 48,
    "labelled_slices": 8,
    "teacher": STEP,
    "diffusion": {"epoch_length": 1, "max_epochs": 1},
    "sampling": {"number": 1},
    "distillation": STEP,
    "fine_tuning": STEP,
    "scratch": {"epoch_length": 2, "val_interval": 10, "batch_size": 2},
}


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("curve")
    sections = {"training": 3, "validation": 2, "test": 1}
    write_study(folder / "study", seed=5, sections=sections, shape=(48, 48, 8), spacing=(7.2, 7.2, 20.0))
    (folder / "tiny.yaml").write_text(yaml.safe_dump({"tiny": PRESET}))
    return folder


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["curve", *words]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    return line


def test_slices_are_nested_and_spread_over_the_patients() -> None:
    points = curve_points(60, (0, 1), Path("data"))
    assert [(point.slices, point.seed) for point in points[::2]] == [(6, 0), (15, 0), (30, 0), (60, 0)]
    training = [{"image": f"{c}.nii", "label": f"{c}_l.nii", "case": c, "slices": list(range(5, 25))} for c in "abc"]
    datalist = {"training": training, "validation": [], "test": [{"case": "x"}], "unlabeled": []}
    before: set[tuple[str, int]] = set()
    for point in points[::2]:
        made = point_datalist(datalist, point)
        labelled = {(entry["case"], index) for entry in made["training"] for index in entry["slices"]}
        assert len(labelled) == point.slices and before < labelled and made["test"] == []
        assert {case for case, _ in labelled} == set("abc") and min(index for _, index in labelled) >= 5
        before = labelled
    other = point_datalist(datalist, Point(6, 1))
    assert other != point_datalist(datalist, Point(6, 0))


def test_too_little_is_refused_in_one_line(
    phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(phantom)
    data, out = "study/datalist.json", ["--output-dir", str(tmp_path / "out"), "--preset", "tiny.yaml"]
    assert "found smll; did you mean small?" in refused([data, "--preset", "smll"], capsys)
    assert "at least 20 labelled training slices" in refused([data, *out, "--labelled-slices", "19"], capsys)
    content = read_json(phantom / data)
    write_json(phantom / "study" / "one.json", {**content, "validation": content["validation"][:1]})
    assert "at least 2 patients in `validation`" in refused(["study/one.json", *out], capsys)
    more = refused([data, "--output-dir", str(tmp_path / "more"), "--preset", "tiny.yaml", "--more", "25"], capsys)
    assert "--more of at most 24" in more
    assert not list(tmp_path.glob("*/student_*"))


def test_a_distilled_point_has_a_teacher_of_its_slices(tmp_path: Path, make_task: Any) -> None:
    digests = {f"{section} {kind}": [] for section in ("training", "validation", "test", "unlabeled")
               for kind in ("images", "labels")}  # fmt: skip
    dataset = PlannedDataset(Path("datalist.json"), Path("task.json"), make_task(), digests, slices=80)
    options = PipelineOptions(
        load_preset("demo"), "sam_demo", "shipped", None, "compact_unet_small", 7, None, 40, synthesis=False
    )
    teacher, distilled, student, scores = point_stages(StageBuilder(tmp_path, dataset, options), Point(6, 7), "distil")
    assert distilled.needs == [teacher.name] and student.needs == [distilled.name] and scores.needs == [student.name]
    assert distilled.paths()["teacher_dir"] == tmp_path / "teacher_6_seed_7"
    assert scores.settings == {"section": "validation"} and teacher.settings["seed"] == 7
    scratch, _ = point_stages(StageBuilder(tmp_path, dataset, options), Point(6, 7), "scratch")
    assert scratch.settings["max_epochs"] == 40 and scratch.name == student.name == "student_6_seed_7"
    assert parse_arguments(["data"]).method == "scratch"


@pytest.mark.slow
def test_a_curve_resumes_and_shows_itself(phantom: Path) -> None:
    def curve(*options: str) -> subprocess.CompletedProcess[str]:
        words = ["-m", "tskd_monai", "curve", "study/datalist.json", "--output-dir", "run", "--preset", "tiny.yaml"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [python_command(), *words, "--seeds", "1", *options], cwd=phantom, env=environment, capture_output=True,
            text=True, timeout=500,
        )  # fmt: skip

    done = curve()
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Learning curve: 4 students at 2, 6, 12, 24 labelled slices, 1 at each; about " in done.stderr
    assert done.stdout.splitlines()[-2].startswith("24 more labelled slices: ")
    assert done.stdout.splitlines()[-1] == "Report: run/curve.html"
    with (phantom / "run" / "curve.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    content = read_json(phantom / "study/datalist.json")
    cases = {section: {entry["case"] for entry in content[section]} for section in ("validation", "test")}
    assert len(rows) == 8 and {row["case"] for row in rows} == cases["validation"]
    assert {int(row["slices"]) for row in rows} == {2, 6, 12, 24}
    lines = (phantom / "run" / "commands.txt").read_text().splitlines()
    assert len(lines) == 8 and all(line.startswith("python -m monai.bundle run ") for line in lines)
    page = Page((phantom / "run" / "curve.html").read_text(encoding="utf-8"))
    assert "Gain in Dice" in page.text and "With one seed this has no interval" in page.text
    Image.open(phantom / "run" / "curve.png").verify()
    assert not any(case in path.name for case in cases["test"] for path in (phantom / "run").rglob("*"))

    weights = phantom / "run" / "student_2_seed_0" / "models" / "model.pt"
    written = weights.stat().st_mtime_ns
    shutil.rmtree(phantom / "run" / "predictions_student_24_seed_0")
    (phantom / "run" / "curve.html").unlink()
    again = curve("--more", "10")
    assert again.returncode == 0, again.stderr[-3000:]
    assert again.stderr.count("already finished") == 7 and weights.stat().st_mtime_ns == written
    assert "10 more labelled slices: " in again.stdout and (phantom / "run" / "curve.html").is_file()

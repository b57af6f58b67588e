"""The pipeline command runs all stages on a tiny study, and does not run again what is finished."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from tskd_monai.data.atomic import read_json
from tskd_monai.data.phantom_study import write_study

SCRIPTS = Path(__file__).parent.parent.parent / "scripts"
TINY = {
    "image_size": 48,
    "labelled_slices": 8,
    "teacher": {"epoch_length": 2, "max_epochs": 1, "val_interval": 1, "batch_size": 2},
    "diffusion": {"epoch_length": 2, "max_epochs": 1, "batch_size": 2},
    "sampling": {"number": 2, "num_inference_steps": 2},
    "distillation": {"epoch_length": 2, "max_epochs": 1, "val_interval": 1, "batch_size": 2},
    "fine_tuning": {"epoch_length": 2, "max_epochs": 1, "val_interval": 1, "batch_size": 2},
    "scratch": {"epoch_length": 2, "val_interval": 1, "batch_size": 2},
}


def run_pipeline(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Runs the command in a folder and returns what it left."""
    command = [sys.executable, str(SCRIPTS / "run_pipeline.py"), *options]
    environment = {**os.environ, "PYTHONPATH": str(SCRIPTS.parent), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=500)


def script(name: str) -> ModuleType:
    """Imports a module of the scripts folder."""
    sys.path.insert(0, str(SCRIPTS))
    try:
        spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(SCRIPTS))


def test_pipeline_runs_to_the_report_and_resumes(tmp_path: Path) -> None:
    sections = {"training": 2, "validation": 1, "test": 2}
    write_study(tmp_path / "study", seed=5, sections=sections, shape=(48, 48, 8), spacing=(7.2, 7.2, 20.0))
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({"tiny": TINY}))
    options = ("--datalist", "study/datalist.json", "--output-dir", "run", "--preset", "tiny.yaml")

    first = run_pipeline(tmp_path, *options)
    assert first.returncode == 0, first.stderr[-3000:]
    assert "Mean difference in Dice" in first.stderr
    report = (tmp_path / "run/report.html").read_text()
    assert "stands in for a real foundation model" in report and "facebook/sam-vit-base" in report
    assert read_json(tmp_path / "run/gates/gates.json")["counts"]["sampled"] == 2
    assert "<img" in report and 'src="http' not in report
    for method in ("teacher", "student", "scratch"):
        assert read_json(tmp_path / f"run/predictions_{method}/metrics.json")
    assert read_json(tmp_path / "run/student/record.json")["results"]

    written = (tmp_path / "run/student/models/model.pt").stat().st_mtime_ns
    again = run_pipeline(tmp_path, *options)
    assert again.returncode == 0, again.stderr[-3000:]
    assert again.stderr.count("finished before") == 10
    assert (tmp_path / "run/student/models/model.pt").stat().st_mtime_ns == written


def test_teacher_option_is_a_name_a_file_or_a_hub_id() -> None:
    parse_teacher = script("run_pipeline").parse_teacher
    assert parse_teacher("sam_demo") == ("sam_demo", "shipped")
    assert parse_teacher("vit_tiny_patch16=w.safetensors") == ("vit_tiny_patch16", "w.safetensors")
    assert parse_teacher("facebook/sam-vit-base") == ("sam_vit_base", "facebook/sam-vit-base")
    with pytest.raises(ValueError, match="found sam_vit_small"):
        parse_teacher("sam_vit_small")


def test_wrong_datalist_and_preset_end_with_a_message(tmp_path: Path) -> None:
    done = run_pipeline(tmp_path, "--datalist", "none.json", "--output-dir", "run", "--preset", "demo")
    assert done.returncode == 2 and "Expected a JSON file at none.json, found none." in done.stderr
    done = run_pipeline(tmp_path, "--datalist", "none.json", "--output-dir", "run", "--preset", "tiny")
    assert done.returncode == 2 and "Expected a preset among ['demo', 'full', 'small']" in done.stderr
    assert not (tmp_path / "run").exists()


def test_missing_teacher_weights_end_the_run_before_anything_is_written(tmp_path: Path) -> None:
    write_study(tmp_path / "study", seed=5, sections={"training": 1}, shape=(16, 16, 3), spacing=(20.0, 20.0, 50.0))
    options = ("--datalist", "study/datalist.json", "--output-dir", "run", "--teacher", "sam_vit_base=nowhere.pth")

    result = run_pipeline(tmp_path, *options)

    assert result.returncode == 2
    assert "nowhere.pth" in result.stderr and "Traceback" not in result.stderr
    assert not (tmp_path / "run").exists()

"""The pipeline command runs all stages on a tiny dataset, and leaves finished stages untouched."""

from __future__ import annotations

import hashlib
import json
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.support.fork_server import python_command
from tests.support.paths import ROOT
from tskd_monai.commands.main import main
from tskd_monai.datasets.phantom.study import write_study
from tskd_monai.files.json_files import read_json

pytestmark = pytest.mark.slow

TINY: dict[str, Any] = {
    "image_size": 48,
    "labelled_slices": 8,
    "compare": True,
    "synthesis": True,
    "teacher": {"epoch_length": 2, "max_epochs": 1, "val_interval": 1, "batch_size": 2},
    "diffusion": {"epoch_length": 2, "max_epochs": 1, "batch_size": 2},
    "sampling": {"number": 2, "num_inference_steps": 2},
    "distillation": {"epoch_length": 2, "max_epochs": 1, "val_interval": 1, "batch_size": 2},
    "fine_tuning": {"epoch_length": 2, "max_epochs": 1, "val_interval": 1, "batch_size": 2},
    "scratch": {"epoch_length": 2, "val_interval": 1, "batch_size": 2},
}
OPTIONS = ("study/datalist.json", "--output-dir", "run", "--preset", "tiny.yaml")
MODELS = ("teacher", "student", "scratch", "self_trained")
TRAINED = ("teacher", "diffusion", "transfer_set", "gates", "distilled", "self_distilled", "student", "scratch",
           "self_trained")  # fmt: skip
PREDICTED = tuple(f"predictions_{model}" for model in MODELS)
STAGES = 13
LARGEST_CPU_SECONDS = 15
SHOWN = re.compile(
    r"Commands of the stages: .*|\[\d+/\d+\] .* \(.* elapsed.*\)|\[\d+/\d+\] .*: already finished"
    r"|    \$ python -m monai\.bundle run .*|The latency of .*too busy.*"
    r"|Training, validation and test were drawn from .*"
    r"|Synthesis: about .* of about .* on two cores; its images are left out if they fail their gates\. .*"
    r"|    The transfer set failed its gates and is left out of distillation\. .*too few images to judge realism.*"
)
"""The lines of a run without warnings."""


def command(*options: str, python: str = sys.executable) -> list[str]:
    return [python, "-m", "tskd_monai", "train", *options]


def environment(checkout: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}


def train(
    folder: Path, *options: str, checkout: Path = ROOT, python: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs the command in a folder and returns its result."""
    words = command(*options, python=python or python_command())
    return subprocess.run(words, cwd=folder, env=environment(checkout), capture_output=True, text=True, timeout=500)


def tiny_study(folder: Path, **sections: int) -> None:
    """Writes a dataset and a preset with two steps per stage."""
    write_study(folder / "study", seed=5, sections=sections, shape=(48, 48, 8), spacing=(7.2, 7.2, 20.0))
    write_preset(folder / "tiny.yaml")


def write_preset(path: Path, **changes: Any) -> None:
    """Writes a preset with other settings of some stages, or another value of a key."""
    changed = {
        name: {**TINY[name], **change} if isinstance(change, dict) else change for name, change in changes.items()
    }
    path.write_text(yaml.safe_dump({"tiny": {**TINY, **changed}}))


def states(folder: Path, *stages: str) -> dict[str, tuple[int, str]]:
    """Inode and sha256 of every file that the stages have written."""
    files = [path for stage in stages for path in (folder / stage).rglob("*") if path.is_file()]
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_ino, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in files
    }


def succeeded(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """Returns the single line with which a call was rejected."""
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr[-3000:]
    return done.stderr.strip().splitlines()[-1]


def first_run(folder: Path) -> Path:
    """Runs a pipeline to its end, from a copy of the package and bundles, and returns its output folder."""
    for name in ("bundles", "tskd_monai"):
        shutil.copytree(ROOT / name, folder / "checkout" / name)
    tiny_study(folder, training=2, validation=1, test=2)
    done = train(folder, *OPTIONS, checkout=folder / "checkout")
    succeeded(done)
    check_messages(done)
    assert done.stderr.count("    $ python -m monai.bundle run … ") == STAGES
    assert done.stderr.count(" elapsed, about ") == STAGES - 1  # nothing is known before the first stage
    assert done.stderr.count("failed its gates") == done.stderr.count("Synthesis: about ") == 1
    return folder / "run"


def check_messages(done: subprocess.CompletedProcess[str], run: str = "run") -> None:
    """Checks that the terminal shows a line for each stage and the result, and nothing that a library reports."""
    unexpected = [line for line in done.stderr.splitlines() if not SHOWN.fullmatch(line)]
    assert not unexpected
    *_, student, report = done.stdout.splitlines()
    assert (student, report) == (f"Student bundle: {run}/student", f"Report: {run}/report.html")
    assert "Distilled student" in done.stdout


def again(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return train(folder, *(options or OPTIONS), checkout=folder / "checkout")


def test_without_test_cases_it_ends_with_the_student(tmp_path: Path) -> None:
    tiny_study(tmp_path, training=2, validation=1)
    write_preset(tmp_path / "tiny.yaml", compare=False, synthesis=False)
    assert "--no-test trains without" in refused(train(tmp_path, *OPTIONS))
    datalist = read_json(tmp_path / "study/datalist.json")
    stated = [{**entry, "slices": list(range(5))} for entry in datalist["training"]]
    (tmp_path / "study/datalist.json").write_text(json.dumps({**datalist, "training": stated}))
    done = train(tmp_path, *OPTIONS, "--no-test")
    used = read_json(tmp_path / "run/private/datalist.json")["training"]
    assert [entry["slices"] for entry in used] == [list(range(5))] * 2  # all, although the preset has 8 slices
    assert "3/3" in succeeded(done) and done.stdout.splitlines() == ["Student bundle: run/student"]
    assert (tmp_path / "run/student/models/model.pt").is_file() and not (tmp_path / "run/report.html").exists()
    assert train(tmp_path, *OPTIONS, "--no-test").stderr.count("already finished") == 3


def test_a_pipeline_runs_to_the_report_and_what_is_finished_stays(tmp_path: Path) -> None:
    run = first_run(tmp_path)
    check_report(run)
    before = states(run, *TRAINED, *PREDICTED)

    check_a_recorded_command_writes_the_same_model(tmp_path, "student")
    check_a_second_call_runs_nothing(tmp_path)
    assert states(run, *TRAINED, *PREDICTED) == before
    check_moved_folders_run_nothing(tmp_path)
    assert states(run, *TRAINED, *PREDICTED) == before
    check_other_settings_are_named(tmp_path)
    assert states(run, *TRAINED, *PREDICTED) == before

    check_another_test_case_and_a_restart(tmp_path)
    untouched = [stage for stage in TRAINED if stage != "student"]
    assert states(run, *untouched) == {path: state for path, state in before.items() if path.split("/")[0] in untouched}
    kept = {path.name.split(".")[0]: path for path in run.glob("*.before-*")}
    assert sorted(kept) == ["predictions_student", "student"]
    for stage, folder in kept.items():
        aside = states(run, folder.name)
        assert sorted(aside.values()) == sorted(state for path, state in before.items() if path.split("/")[0] == stage)


def check_report(run: Path) -> None:
    report = (run / "report.html").read_text()
    assert (run / "result.png").is_file()
    assert "stands in for a real foundation model" in report and "facebook/sam-vit-base" in report
    assert report.count("paired by patient") == 2 and "by self-training" in report
    assert "<img" in report and 'src="http' not in report
    assert read_json(run / "gates/gates.json")["counts"]["sampled"] == 2
    assert report.count("The transfer set failed its gates and is left out of distillation.") == 2  # summary, section
    assert read_json(run / "distilled/record.json")["settings"]["transfer_set"] is None
    for model in MODELS:
        assert read_json(run / f"predictions_{model}/metrics.json")
        assert read_json(run / f"{model}/record.json")["results"]
    assert (run / "summary.txt").read_text().count("Mean difference in Dice") == 2
    steps = 2 * read_json(run / "stages/effort.json")["scratch_epochs"]
    assert read_json(run / "scratch/record.json")["settings"]["steps"] == steps and f"{steps} steps" in report


def check_a_recorded_command_writes_the_same_model(folder: Path, stage: str) -> None:
    """Runs a line of commands.txt as a shell would, with another output folder."""
    lines = (folder / "run/commands.txt").read_text().splitlines()
    assert len(lines) == STAGES
    output = f"--output_dir={folder / 'run' / stage}"
    (line,) = [line for line in lines if shlex.split(line)[-1] == output]
    words = [python_command(), *shlex.split(line)[1:], f"--output_dir={folder / 'again'}"]
    succeeded(subprocess.run(words, cwd=folder, env=environment(folder / "checkout"), capture_output=True, text=True))
    first, second = (torch.load(path / "models/model.pt") for path in (folder / "run" / stage, folder / "again"))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def check_a_second_call_runs_nothing(folder: Path) -> None:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    options = (*OPTIONS, "--device", "cpu")
    done = train(folder, *options, checkout=folder / "checkout", python=sys.executable)
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert succeeded(done).count("already finished") == STAGES and "Mean difference in Dice" in done.stdout
    check_messages(done)
    assert now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime < LARGEST_CPU_SECONDS


def check_moved_folders_run_nothing(folder: Path) -> None:
    (folder / "run").rename(folder / "moved")
    (folder / "study").rename(folder / "moved_study")
    moved = ("moved_study/datalist.json", "--output-dir", "moved", "--preset", "tiny.yaml")
    assert succeeded(again(folder, *moved)).count("already finished") == STAGES
    (folder / "moved").rename(folder / "run")
    (folder / "moved_study").rename(folder / "study")


def check_other_settings_are_named(folder: Path) -> None:
    task = folder / "run" / "task.json"
    original = task.read_text()
    task.write_text(original.replace('"foreground_oversampling": 0.67', '"foreground_oversampling": 0.5'))
    line = refused(again(folder))
    assert "foreground_oversampling is 0.5, was 0.67 (task.json)" in line and "--restart teacher diffusion" in line
    task.write_text(original)

    write_preset(folder / "other.yaml", distillation={"learning_rate": 0.005})
    line = refused(again(folder, *OPTIONS[:-1], "other.yaml"))
    assert "distilled/ (learning_rate is 0.005, was 0.002)" in line and "--restart distilled self_distilled" in line

    config = folder / "checkout/bundles/teacher_lora/configs/train.yaml"
    content = config.read_text()
    config.write_text(content.replace("lora_rank: 8", "lora_rank: 4"))
    assert "teacher/ (lora_rank is 4, was 8)" in refused(again(folder))
    config.write_text(content)


def check_another_test_case_and_a_restart(folder: Path) -> None:
    write_study(folder / "other", seed=6, sections={"test": 1}, shape=(48, 48, 8), spacing=(7.2, 7.2, 20.0))
    datalist = json.loads((folder / "study/datalist.json").read_text())
    new = {"image": "../other/images/phantom_000.nii.gz", "label": "../other/labels/phantom_000.nii.gz", "case": "new"}
    (folder / "study/more.json").write_text(json.dumps({**datalist, "test": [*datalist["test"], new]}))
    write_preset(folder / "tuned.yaml", fine_tuning={"learning_rate": 0.001})
    options = ("study/more.json", *OPTIONS[1:-1], "tuned.yaml", "--no-compare", "--restart", "student")
    log = succeeded(again(folder, *options))
    assert log.count("already finished") == 5  # up to distillation
    for model in ("teacher", "student"):
        assert "new" in (folder / f"run/predictions_{model}/metrics.csv").read_text()
    report = (folder / "run/report.html").read_text()
    assert "3 patients" in report and "by self-training" not in report


def test_two_pipelines_on_one_folder_do_not_write_at_once_and_a_killed_one_is_taken_over(tmp_path: Path) -> None:
    tiny_study(tmp_path, training=2, validation=1, test=1)
    first = subprocess.Popen(command(*OPTIONS), cwd=tmp_path, env=environment(ROOT),
                             stderr=subprocess.PIPE, text=True, start_new_session=True)  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "run/stages/teacher.json").is_file():
            assert time.monotonic() < deadline and first.poll() is None
            time.sleep(0.1)
        line = refused(train(tmp_path, *OPTIONS))
        assert f"process {first.pid}" in line and "since" in line
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    write_preset(tmp_path / "tiny.yaml", image_size=64)
    # The folder is unlocked, and the unfinished stage of the killed run is examined.
    assert "--image-size 64" in refused(train(tmp_path, *OPTIONS))


def test_wrong_input_ends_in_one_line_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_study(tmp_path, training=1)
    monkeypatch.chdir(tmp_path)
    presets = "Expected --preset with one of demo, demo_teacher, full, small"
    for options, expected in (
        (("--datalist", "none.json"), "found nothing at none.json"),
        (("--preset", "tiny"), presets),
        (("--teacher", "sam_vit_base=nowhere.pth"), "nowhere.pth"),
        (("--device", "cuda:99"), "found cuda:99"),
        (("--student", "unet"), "found unet"),
        ((), "Expected cases in `validation` of study/datalist.json, found none"),
    ):
        arguments = [*OPTIONS[1:], *options] if "--datalist" in options else [*OPTIONS, *options]
        assert main(["train", *arguments]) == 1
        line = capsys.readouterr().err.strip().splitlines()[-1]
        assert line.startswith("tskd train: error: ") and expected in line
        assert not (tmp_path / "run").exists()
    assert expected in refused(train(tmp_path, *OPTIONS))
    for options, expected in (
        (("--image-size", "100"), "argument --image-size: expected a multiple of 16, found 100; the nearest is 96."),
        (("--image-size", "0"), "expected a positive whole number, found 0"),
        (("--labelled-slices", "-3"), "expected a positive whole number, found -3"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(["train", *OPTIONS, *options])
        assert expected in capsys.readouterr().err


def test_a_folder_is_trained_on_without_json_and_without_synthesis(tmp_path: Path) -> None:
    """No datalist is written by hand, and no diffusion model is trained unless requested."""
    tiny_study(tmp_path, training=4, validation=1, test=1)
    content = read_json(tmp_path / "study/datalist.json")
    for entry in (entry for section in ("training", "validation", "test") for entry in content[section]):
        for key in ("image", "label"):
            target = tmp_path / "data" / f"{key}s" / f"{entry['case']}.nii.gz"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(tmp_path / "study" / entry[key], target)
    labels = ",".join(f"{name}={value}" for value, name in content["labels"].items() if value != "0")
    options = ("data", "--labels", labels, "--preset", "tiny.yaml", "--no-compare", "--synthesis", "off")
    done = train(tmp_path, *options)
    succeeded(done)
    check_messages(done, "runs/data")
    run = tmp_path / "runs" / "data"
    assert not (run / "diffusion").exists()
    assert "synthetic images" not in (run / "report.html").read_text()
    assert read_json(run / "predictions_student/metrics.json") and read_json(run / "private/data.json")["training"]
    again_log = succeeded(train(tmp_path, *options))
    assert again_log.count("already finished") == 5

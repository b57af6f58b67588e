"""`tskd demo`: the printed lines are the commands that it runs."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from tskd_monai.commands import demo
from tskd_monai.commands.main import main
from tskd_monai.commands.train import command as train_command

ONE_CASE = (
    *("--training", "1", "--validation", "0", "--test", "0"),
    *("--shape", "12", "12", "4", "--spacing", "28", "28", "40"),
)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_recorded_line_writes_the_same_phantom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "SECTIONS", ONE_CASE)
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--output-dir", "my demo", "--seed", "3"]) == 1  # one patient is not enough to train
    shown = capsys.readouterr()
    data, training = (line[2:] for line in shown.out.splitlines() if line.startswith("$ "))
    assert (tmp_path / "my demo/commands.txt").read_text() == f"{data}\n"
    before = contents(tmp_path / "my demo/study")
    assert len(before) > 3

    (tmp_path / "my demo").rename(tmp_path / "first")
    assert main(shlex.split(data)[1:]) == 0
    assert contents(tmp_path / "my demo/study") == before
    assert main(shlex.split(training)[1:]) == 1
    reason = "error: Expected cases in `validation` of "
    assert reason in shown.err
    assert capsys.readouterr().err.splitlines()[-1].partition(reason) == (
        "tskd train: ", *shown.err.splitlines()[-1].partition(reason)[1:]
    )  # fmt: skip


def test_a_wrong_preset_is_known_before_the_phantom_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--output-dir", str(tmp_path / "out"), "--preset", "demmo"]) == 1
    assert "tskd demo: error: " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_missing_weights_of_a_teacher_are_known_before_the_phantom_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "lite_medsam.pth"
    assert main(["demo", "--output-dir", str(tmp_path / "out"), "--teacher", f"lite_medsam={weights}"]) == 1
    assert f"{weights} not found" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_foundation_model_has_a_preset_of_its_own(tmp_path: Path) -> None:
    assert demo.parse_arguments([]).preset == "demo"
    args = demo.parse_arguments(["--teacher", "lite_medsam"])
    assert args.preset == "demo_teacher"
    _, training = demo.commands(tmp_path, 0, args.preset, args.teacher)
    assert train_command.parse_arguments(training[1:]).teacher == "lite_medsam"

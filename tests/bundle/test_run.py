"""A bundle runs by one command line, in a child process or in this one, and a failure states its reason."""

from __future__ import annotations

import io
import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from tests.support.fork_server import python_command
from tskd_monai.bundle.console import copy_output
from tskd_monai.bundle.run import BundleRun, BundleRunError

CONFIG = {
    "imports": ["$import os", "$from pathlib import Path"],
    "initialize": [{"_target_": "tskd_monai.bundle.options.end_with_the_reason"}],
    "output_dir": ".",
    "width": 8,
    "run": ["$Path(@output_dir, 'width.txt').write_text(str(@width + 1))"],
}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle whose run writes a number; its second config overrides the first."""
    configs = tmp_path / "bundle" / "configs"
    configs.mkdir(parents=True)
    (configs / "train.json").write_text(json.dumps(CONFIG))
    (configs / "wide.json").write_text(json.dumps({"width": 16}))
    return configs.parent


def test_the_command_line_is_that_of_the_documents(bundle: Path) -> None:
    run = BundleRun(bundle, ["train.json"], {"output_dir": Path("20240115"), "width": 3, "logging_file": False})
    config = str(bundle / "configs" / "train.json")
    start = [sys.executable, "-m", "monai.bundle", "run", "--bundle_root", str(bundle), "--config_file", config]
    assert run.command() == [*start, "--output_dir=./20240115", "--width=3", "--logging_file=False"]
    assert run.output_dir == Path("20240115")
    assert shlex.split(run.shell_line()) == ["python", *run.command()[1:]]
    assert run.short_line() == "python -m monai.bundle run … bundle/configs/train.json …"

    several = BundleRun(bundle, ["train.json", "wide.json"], {})
    files = repr([config, str(bundle / "configs" / "wide.json")])
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node=2"]
    assert several.command(launcher) == [sys.executable, *launcher, *start[1:-1], files]


def test_an_override_that_is_code_is_refused_in_a_child_and_here(bundle: Path) -> None:
    run = BundleRun(bundle, ["train.json"], {"width": "$open('made', 'w')"})
    for start in (run.command, run.run, run.run_here):
        with pytest.raises(ValueError, match="a plain value for --width, found .*, which MONAI would evaluate"):
            start()


def test_later_configs_and_overrides_count(bundle: Path, tmp_path: Path) -> None:
    for overrides, expected in (({}, "17"), ({"width": 3, "logging_file": False}, "4")):
        BundleRun(bundle, ["train.json", "wide.json"], {"output_dir": tmp_path, **overrides}).run_here()
        assert (tmp_path / "width.txt").read_text() == expected


@pytest.mark.slow
def test_a_child_process_leaves_its_result_or_its_reason(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "logs" / "run.txt"
    if sys.version_info >= (3, 11):  # the modules of a user's folder are not those of the run
        (tmp_path / "json.py").write_text("raise ImportError('the module of the current folder')")
        monkeypatch.chdir(tmp_path)
    BundleRun(bundle, ["train.json"], {"output_dir": tmp_path}).run(log)
    assert (tmp_path / "width.txt").read_text() == "9"
    monkeypatch.setattr(sys, "executable", python_command())
    with pytest.raises(BundleRunError, match="ended with exit code 1; FileNotFoundError: .*No such file") as raised:
        BundleRun(bundle, ["train.json"], {"output_dir": tmp_path / "nowhere"}).run(log)
    assert raised.value.code == 1 and "\n" not in raised.value.reason


def test_the_signal_that_ended_a_child_is_named(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", python_command())
    killed = {**CONFIG, "run": ["$os.kill(os.getpid(), 9)"]}
    (bundle / "configs" / "train.json").write_text(json.dumps(killed))
    with pytest.raises(BundleRunError, match="ended with exit code -9; it was ended by SIGKILL"):
        BundleRun(bundle, ["train.json"]).run(tmp_path / "log.txt")


class Terminal(io.StringIO):
    """What would be on a terminal, or in a file."""

    def __init__(self, tty: bool) -> None:
        super().__init__()
        self.tty = tty

    def isatty(self) -> bool:
        return self.tty


SAID = (
    b"parsing config_file train.yaml: any `_target_` value is resolved\n"
    b"2026-11-28 10:19:46,110 - INFO - Setting logging properties\n"
    b"2026-11-28 10:19:46,799 INFO tskd_monai.networks.pretrained: Loaded sam_demo.\n"
    b"Teacher:   0%|          | 0/6 [00:00<?]\rTeacher: 100%|####| 6/6 [00:01<00:00]\n"
    b"\rSegmenting: [1/2]  50%|##  [00:00<?]2026-11-28 10:19:46,880 INFO tskd_monai.inference: 1 of 2 cases"
    b"\rSegmenting: [1/2]  50%|##  [00:00<?] and a bar that is wider than the terminal\n"
    b"Traceback (most recent call last):\n"
    b"2026-11-28 10:19:47,000 WARNING tskd_monai.data.nifti: a.nii.gz has no spacing.\nValueError: Expected it"
)


@pytest.mark.parametrize("tty", [True, False])
def test_the_terminal_shows_warnings_and_one_line_of_progress_and_the_log_holds_everything(
    tty: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    shown, log = Terminal(tty), io.BytesIO()
    copy_output(io.BufferedReader(io.BytesIO(SAID)), log, shown, lambda bar: f"2 min; {bar}")
    assert log.getvalue() == SAID
    text = shown.getvalue()
    assert ("2 min; Teacher: 100%|####" in text) is tty
    assert ("Loaded sam_demo." in text) is tty and ("1 of 2 cases" in text) is tty
    assert "Segmenting: [1/2]" not in text.split("1 of 2 cases")[0].split("\r")[-1]  # a message written into a bar
    assert all(len(line) < 50 for line in re.split("[\r\n]", text))
    lines = [line.split("\r")[-1].strip() for line in text.split("\n")]
    assert [line for line in lines if line] == ["a.nii.gz has no spacing."]


@pytest.mark.slow
def test_a_run_with_a_view_has_the_same_result_and_reason(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", python_command())
    shown, log = Terminal(False), tmp_path / "logs" / "run.log"
    BundleRun(bundle, ["train.json"], {"output_dir": tmp_path}).run(log, shown=shown)
    assert (tmp_path / "width.txt").read_text() == "9" and "parsing config_file" in log.read_text()
    with pytest.raises(BundleRunError, match="exit code 1; TypeError: "):
        BundleRun(bundle, ["train.json"], {"output_dir": tmp_path, "width": "wide"}).run(log, shown=shown)
    assert log.read_text().count("parsing config_file") == 2  # the log of a stage keeps its earlier attempts
    assert "Traceback" not in shown.getvalue()

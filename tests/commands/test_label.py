"""`tskd label`: the printed line starts the same server."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import BUNDLES, ROOT
from tskd_monai.commands.main import main


def test_the_printed_line_does_the_same(tmp_path: Path) -> None:
    """Both end with the message of the server's first check, as the folder of scans does not exist."""
    command = [sys.executable, "-m", "tskd_monai", "label", "shipped", "none", "--port", "8123"]
    first = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)})
    (line,) = first.stdout.splitlines()
    words = [str(BUNDLES / "segmentation"), str(tmp_path / "none"), "--port", "8123", "--host", "127.0.0.1"]
    assert shlex.split(line) == ["$", "bash", str(ROOT / "scripts" / "monai_label.sh"), *words]
    second = subprocess.run(line[2:], shell=True, cwd=ROOT, capture_output=True, text=True)
    assert (first.returncode, first.stderr) == (second.returncode, second.stderr)
    assert "expected a folder with .nii.gz files" in first.stderr and first.returncode


def test_what_is_no_student_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["label", "none", "scans"]) == 1
    assert "Expected a student at none, found no models/model.pt there" in capsys.readouterr().err

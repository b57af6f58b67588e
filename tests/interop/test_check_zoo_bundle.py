from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

SCRIPT = ROOT / "tests" / "interop" / "check_zoo_bundle.sh"


def check(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with the file that identifies the model zoo."""
    folder = tmp_path / "model-zoo"
    (folder / "ci").mkdir(parents=True)
    (folder / "ci" / "verify_bundle.py").write_text("print('never run')\n")
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    for words in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "Begin"]):
        subprocess.run(["git", "-C", str(folder), *words], check=True)
    return folder


def test_what_is_missing_is_named(tmp_path: Path, checkout: Path) -> None:
    for arguments, environment, message in (
        ((checkout,), {"PYTHON": sys.executable}, "expected MODEL_ZOO EXPORT"),
        ((checkout, tmp_path), {"PYTHON": ""}, "expected PYTHON="),
        ((tmp_path, tmp_path), {"PYTHON": sys.executable}, "expected a checkout of the model zoo at"),
        ((checkout, tmp_path), {"PYTHON": sys.executable}, "found no configs/metadata.json there"),
    ):
        done = check(*arguments, **environment)
        assert done.returncode == 2 and message in done.stderr


def test_environment_with_the_package_proves_nothing_and_is_refused(tmp_path: Path, checkout: Path) -> None:
    (tmp_path / "abdomen" / "configs").mkdir(parents=True)
    (tmp_path / "abdomen" / "configs" / "metadata.json").write_text("{}")
    (tmp_path / "test_abdomen.py").write_text("")
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 0\n")  # one in which every import succeeds
    python.chmod(0o755)
    done = check(checkout, tmp_path / "abdomen", PYTHON=str(python))
    assert done.returncode == 2
    assert "expected an environment without tskd_monai" in done.stderr

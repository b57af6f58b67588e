"""`tskd annotate`: the project that it makes, and what ends it before the server starts."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tskd_monai.annotation.project import AnnotationProject
from tskd_monai.commands.main import main


class Started(Exception):
    """Raised in place of the server."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The server's command line; its environment is neither made nor entered."""
    command: list[str] = []

    def start(python: str, arguments: list[str]) -> NoReturn:
        command.extend(arguments)
        raise Started

    def set_up(arguments: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        assert Path(arguments[1]).name == "setup_monai_label.sh"
        return subprocess.CompletedProcess(arguments, 0, stdout="/venv/bin/python\n")

    monkeypatch.setattr(os, "execv", start)
    monkeypatch.setattr(subprocess, "run", set_up)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    return command


def test_the_first_call_makes_a_project_and_the_second_continues(tmp_path: Path, server: list[str]) -> None:
    (tmp_path / "scans").mkdir()
    words = ["annotate", str(tmp_path / "project"), str(tmp_path / "scans")]
    options = ["--labels", "liver, spleen", "--promptable", "lite_medsam=random", "--image-size", "64"]
    with pytest.raises(Started):
        main([*words, *options])
    settings = AnnotationProject(tmp_path / "project").settings
    assert settings.values == {"liver": 1, "spleen": 2} and settings.weights == "random"
    assert settings.training[:2] == ("--teacher", "lite_medsam=random") and "64" in settings.training
    assert server[server.index("--app") + 1] == str(tmp_path / "project" / "app")
    assert "AnnotationApp" in (tmp_path / "project" / "app" / "main.py").read_text()
    assert os.environ["PYTHONSAFEPATH"] == "1"  # a module of the current folder is not one of the server's
    with pytest.raises(Started):
        main(words)
    assert AnnotationProject(tmp_path / "project").settings == settings


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "Expected --labels in the first call"),
        (["--labels", "liver", "--promptable", "lite_medsam=none.pth"], "none.pth"),
        (["--labels", "liver", "--promptable", "vit_tiny=random"], "vit_tiny"),
        (["--labels", "liver", "--promptable", "lite_medsam=random", "--size", "100"], "--size with a multiple of 16"),
    ],
)
def test_what_cannot_be_served_is_named_and_makes_no_project(
    tmp_path: Path, server: list[str], capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main(["annotate", str(tmp_path / "project"), str(tmp_path), *options]) == 1
    found = capsys.readouterr().err
    assert message in found and found.count("\n") == 1 and not (tmp_path / "project").exists() and not server


def test_a_missing_folder_of_images_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["annotate", str(tmp_path / "project"), str(tmp_path / "none"), "--labels", "liver"]) == 1
    assert "Expected a folder of images at" in capsys.readouterr().err

"""The command prepares a dataset for `tskd plan`, verifies it, and names what is wrong."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.paths import ROOT
from tskd_monai.commands.datasets import PREPARERS, preparer
from tskd_monai.commands.main import main

PAGE = ROOT / "bundles/segmentation/docs/datasets.md"
Run = Callable[..., str]


@pytest.fixture
def run(caplog: pytest.LogCaptureFixture) -> Run:
    """Returns the function that runs a command and returns its log."""

    def run_command(*arguments: object, code: int = 0) -> str:
        caplog.clear()
        with caplog.at_level(logging.INFO):
            assert main(list(map(str, arguments))) == code
        return caplog.text

    return run_command


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """CHASE_DB1 of three children, tiny."""
    folder = tmp_path / "CHASEDB1"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for child in (1, 2, 3):
        for eye in "LR":
            Image.fromarray(rng.integers(0, 256, (40, 42, 3), dtype=np.uint8)).save(folder / f"Image_0{child}{eye}.jpg")
            for reader in ("1st", "2nd"):
                mask = rng.integers(0, 2, (40, 42), dtype=np.uint8) > 0
                Image.fromarray(mask).save(folder / f"Image_0{child}{eye}_{reader}HO.png")
    return folder


def test_a_download_becomes_a_planned_task(
    source: Path, tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--source", source, "--output-dir", tmp_path / "chase", "--split", 1, 1, 1, "--allow-partial")
    logged = run("datasets", "chase_db1", *options)
    assert "training 2 images of 1 patients, validation 2 images of 1 patients, test 2" in logged
    assert "Licence: public release of Kingston University" in logged
    progress = capsys.readouterr().err
    assert "Writing: 100%" in progress and "Checking: 100%" in progress
    assert "task.json: vessel at 48x48" in run(
        "plan", tmp_path / "chase/datalist.json", "--output-dir", tmp_path / "study"
    )
    assert (tmp_path / "study/task.json").is_file()
    assert "test 2 images of 1 patients" in run("datasets", "chase_db1", "--output-dir", tmp_path / "chase", "--verify")
    (tmp_path / "chase/images/Image_01L.jpg").write_bytes(b"other")
    run("datasets", "chase_db1", "--output-dir", tmp_path / "chase", "--verify", code=1)
    assert "found 1 changed (images/Image_01L.jpg)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("hc18", "--source", "nowhere"), "Expected a folder or archives of the download, found nothing at nowhere"),
        (("hc18", "--source", ".", "."), "Expected one folder or archives of the download, found . among 2"),
        (("hc18", "--source", __file__), "found test_datasets.py damaged or of another kind"),
        (("hc18", "--source", ".", "--channel", "1"), "Expected --channel for decathlon only, found hc18"),
    ],
)
def test_wrong_options_end_with_a_message(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], message: str
) -> None:
    run("datasets", *options, "--output-dir", tmp_path / "out", code=1)
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_a_download_or_verify_is_needed(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run("datasets", "hc18", "--output-dir", "out")
    assert "expected --source with the download, or --verify" in capsys.readouterr().err


def test_archives_of_the_download_are_unpacked_once(source: Path, tmp_path: Path, run: Run) -> None:
    archive = shutil.make_archive(str(tmp_path / "CHASEDB1"), "zip", source)
    options = ("chase_db1", "--source", archive, "--output-dir", tmp_path / "chase", "--allow-partial")
    assert "Unpacked into" in run("datasets", *options)
    assert len(list((tmp_path / "chase_download").iterdir())) == 18
    assert "Unpacked into" not in run("datasets", *options)


def test_another_dataset_in_the_folder_is_named(
    source: Path, tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    run("datasets", "chase_db1", "--source", source, "--output-dir", tmp_path / "chase", "--allow-partial")
    run("datasets", "drive", "--output-dir", tmp_path / "chase", "--verify", code=1)
    assert "Expected drive in" in capsys.readouterr().err


def test_the_page_has_every_dataset() -> None:
    listed = re.findall(r"tskd datasets (\w+)`", PAGE.read_text())
    assert sorted(listed) == sorted(PREPARERS)


@pytest.mark.parametrize("name", PREPARERS)
def test_every_preparer_names_the_layout_it_expects(name: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected .* the official layout is"):
        preparer(name)(tmp_path)

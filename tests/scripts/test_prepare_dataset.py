"""The command prepares a dataset that `plan_task.py` takes, checks it again, and names what is wrong."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "scripts"
PAGE = ROOT / "bundles/segmentation/docs/datasets.md"


def run(script: str, *options: object) -> subprocess.CompletedProcess[str]:
    """Runs a script of the repository and returns what it left."""
    command = [sys.executable, str(SCRIPTS / script), *map(str, options)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


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


def test_a_download_becomes_a_planned_task(source: Path, tmp_path: Path) -> None:
    options = ("--source", source, "--output", tmp_path / "chase", "--split", 1, 1, 1, "--allow-partial")
    done = run("prepare_dataset.py", "chase_db1", *options)
    assert done.returncode == 0, done.stderr
    assert "training 2 images of 1 patients, validation 2 images of 1 patients, test 2" in done.stderr
    assert "Licence: public release of Kingston University" in done.stderr and "Writing" in done.stderr
    planned = run("plan_task.py", tmp_path / "chase/datalist.json", "--output-dir", tmp_path / "study")
    assert planned.returncode == 0, planned.stderr
    assert (tmp_path / "study/task.json").is_file()
    verified = run("prepare_dataset.py", "chase_db1", "--output", tmp_path / "chase", "--verify")
    assert verified.returncode == 0, verified.stderr
    (tmp_path / "chase/images/Image_01L.jpg").write_bytes(b"other")
    refused = run("prepare_dataset.py", "chase_db1", "--output", tmp_path / "chase", "--verify")
    assert refused.returncode == 2 and "found 1 changed (images/Image_01L.jpg)" in refused.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("hc18", "--source", "nowhere"), "Expected the unpacked download of hc18 at nowhere, found no folder"),
        (("hc18",), "expected --source with the unpacked download, or --verify"),
        (("hc18", "--source", ".", "--channel", "1"), "Expected --channel for decathlon alone, found hc18"),
    ],
)
def test_wrong_options_end_with_one_line(tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    done = run("prepare_dataset.py", *options, "--output", tmp_path / "out")
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_page_has_every_dataset() -> None:
    listed = set(re.findall(r"prepare_dataset\.py (\w+)", PAGE.read_text()))
    offered = run("prepare_dataset.py", "--help").stdout
    assert listed == set(re.search(r"\{([\w,]+)\}\s", offered.replace("{1,2}", "")).group(1).split(","))

"""The harness that kills and starves stages detects faults; a few of its kills and a full disk do no harm."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.paths import ROOT
from tskd_monai.files.json_files import read_json, write_json
from tskd_monai.training.checkpoint import save_checkpoint

LONGEST_NIGHTLY = 3 * 3600


def script(name: str) -> ModuleType:
    return importlib.import_module(f"tests.reliability.{name}")


@pytest.fixture(scope="module")
def work_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which stages run once for all tests."""
    return tmp_path_factory.mktemp("work")


@pytest.fixture
def small_disks(tmp_path: Path) -> None:
    """Skip a test where no small disk can be mounted."""
    try:
        with script("small_disk").small_disk(tmp_path / "disk", 1 << 20):
            pass
    except (PermissionError, FileNotFoundError) as error:
        pytest.skip(f"a small disk cannot be mounted here: {error}")


def run(program: str, work_dir: Path, results: Path, *options: str, seconds: int = 500) -> Any:
    """Run a program of the harness and return its results; it must find nothing wrong."""
    command = [
        sys.executable,
        "-m",
        f"tests.reliability.{program}",
        "--work-dir",
        str(work_dir),
        "--results",
        str(results),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *options], env=environment, capture_output=True, text=True, timeout=seconds)
    assert done.returncode == 0, done.stderr[-3000:]
    return read_json(results)


@pytest.mark.slow
def test_killed_stages_end_as_if_they_had_not_been(work_dir: Path, tmp_path: Path) -> None:
    options = ("--kills", "2", "--stage", "teacher", "--stage", "transfer_set")
    results = run("kill_stages", work_dir, tmp_path / "results.json", *options)
    assert results["kills"] == 4
    assert list(results["stages"]) == ["teacher", "transfer_set"]
    assert all(stage["flawless"] and stage["repeated_equal"] for stage in results["stages"].values())


@pytest.mark.slow
@pytest.mark.usefixtures("small_disks")
def test_a_full_disk_does_no_harm(work_dir: Path, tmp_path: Path) -> None:
    results = run("starve_stages", work_dir, tmp_path / "results.json", "--fault", "full disk: transfer set")
    (finding,) = results["faults"]
    assert finding["message"].endswith("free some and run the same command again, which resumes from here")
    assert finding["code"] == 1 and finding["intact"] and finding["went_on"]


@pytest.mark.nightly
def test_every_stage_is_killed_many_times(work_dir: Path, tmp_path: Path) -> None:
    results = run("kill_stages", work_dir, tmp_path / "results.json", "--kills", "10", seconds=LONGEST_NIGHTLY)
    assert all(stage["flawless"] and stage["kills"] == 10 for stage in results["stages"].values())


@pytest.mark.nightly
@pytest.mark.usefixtures("small_disks")
def test_every_fault_of_a_disk_does_no_harm(work_dir: Path, tmp_path: Path) -> None:
    results = run("starve_stages", work_dir, tmp_path / "results.json", seconds=LONGEST_NIGHTLY)
    assert [finding["fault"] for finding in results["faults"]] == [fault.name for fault in script("faults").FAULTS]


@pytest.mark.nightly
@pytest.mark.parametrize("stage", ["teacher", "diffusion", "distilled"])
def test_a_killed_process_of_a_stage_ends_the_job(work_dir: Path, tmp_path: Path, stage: str) -> None:
    run("kill_rank", work_dir, tmp_path / "results.json", "--stage", stage, seconds=LONGEST_NIGHTLY)


@pytest.mark.nightly
def test_many_studies_are_segmented_once_in_spite_of_kills(tmp_path: Path) -> None:
    options = ("--studies", "120", "--kills", "3")
    results = run("many_studies", tmp_path / "work", tmp_path / "results.json", *options, seconds=LONGEST_NIGHTLY)
    assert results["exact"] and results["studies"] == 120 and len(results["kills"]) == 3


def test_studies_that_were_lost_or_redone_are_found(tmp_path: Path) -> None:
    many = script("many_studies")
    for folder, name in (("reference", "a"), ("reference", "b"), ("killed", "a"), ("killed", "c")):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / f"{name}_seg.nii.gz").write_text(f"{name} of {folder}")
    write_json(tmp_path / "killed" / "summary.json", {"done": 1, "failed": 1, "studies": [{}, {}]})
    (tmp_path / "killed" / ".00000000.1.tmp.a").touch()
    tally = many.Tally(2)
    many.compare(tmp_path / "reference", tmp_path / "killed", tally)
    assert tally.missing == ["b_seg.nii.gz", "summary.json: 1 done of 2"] and not tally.exact
    assert tally.differing == ["a_seg.nii.gz", "c_seg.nii.gz"] and tally.left_over == [".00000000.1.tmp.a"]
    for slower in ({"cpu_seconds_of_few": 1.0, "cpu_seconds_of_many": 1.2}, {"megabytes_per_1000": 6.0}):
        assert not many.Tally(2, **slower).scales
    assert many.Tally(2, cpu_seconds_of_few=1.0, cpu_seconds_of_many=1.05).scales


def outputs(folder: Path, value: float = 1.0, seconds: float = 2.0) -> Path:
    """Return a folder with a file of each kind that stages write."""
    save_checkpoint({"weight": torch.full((300,), value), "seconds": seconds}, folder / "last.pt")
    np.savez_compressed(folder / "answer.npz", values=np.arange(300))
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(folder / "image.png")
    write_json(folder / "record.json", {"dice": 0.5, "seconds": seconds, "folder": str(folder)})
    (folder / "history.jsonl").write_text(json.dumps({"epoch": 1, "seconds": seconds}) + "\n")
    return folder


def test_equal_runs_have_equal_digests_whatever_their_times_and_paths(tmp_path: Path) -> None:
    digests = script("output_files").digests
    first = digests(outputs(tmp_path / "a"))
    assert first == digests(outputs(tmp_path / "b", seconds=9.0))
    other = digests(outputs(tmp_path / "c", value=1.0000001))
    assert [name for name in first if first[name] != other[name]] == ["last.pt"]


@pytest.mark.parametrize("name", ["last.pt", "answer.npz", "image.png", "record.json"])
def test_a_file_that_is_cut_short_is_found(tmp_path: Path, name: str) -> None:
    unreadable = script("output_files").unreadable_files
    assert unreadable(outputs(tmp_path)) == {}
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    assert list(unreadable(tmp_path)) == [name]


def test_files_that_are_being_written_do_not_count(tmp_path: Path) -> None:
    files = script("output_files")
    outputs(tmp_path)
    (tmp_path / ".00000000.1.tmp.last.pt").write_bytes(b"half")
    assert files.unreadable_files(tmp_path) == {}
    assert [path.name for path in files.temporary_files(tmp_path)] == [".00000000.1.tmp.last.pt"]


def test_a_tally_with_anything_lost_is_not_flawless() -> None:
    tally = script("kill_stages").Tally
    assert tally(repeated_equal=True).flawless
    for fault in ("unreadable", "not_resumed", "differing", "left_over"):
        assert not tally(repeated_equal=True, **{fault: ["last.pt"]}).flawless
    assert not tally(repeated_equal=False).flawless
    assert not tally(repeated_equal=True, epochs_lost_at_most=1).flawless

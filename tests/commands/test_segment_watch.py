"""`tskd segment --watch`: results as they are without it, in spite of a bad series, an interruption and a restart."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tskd_monai.commands.main import main
from tskd_monai.data.nifti import write_nifti
from tskd_monai.datasets.phantom.dicom import write_dicom_series
from tskd_monai.datasets.phantom.render import make_grid, render, sample_anatomy
from tskd_monai.files.json_files import read_json
from tskd_monai.files.redaction import UID
from tskd_monai.inference.watching import signals_to

SHAPE, SPACING = (48, 48, 4), (6.0, 6.0, 40.0)
LONGEST = 120.0


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A NIfTI file and a DICOM series."""
    folder = tmp_path_factory.mktemp("scans")
    grid = make_grid(SHAPE, SPACING, "LAS")
    voxels = render(sample_anatomy(1), grid, 1)[0]
    write_nifti(folder / "scan.nii.gz", voxels.astype(np.int16), np.array(grid.affine))
    write_dicom_series(folder / "DOE^JANE", voxels.astype(np.uint16), np.array(grid.affine), seed=1)
    return folder


def watch(folder: Path, out: Path, ends: Callable[[], bool], number: int = signal.SIGTERM) -> int:
    """Watches a folder until a condition holds, then sends a signal; returns the exit code."""

    def stop() -> None:
        deadline = time.monotonic() + LONGEST
        while not ends() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=stop)
    thread.start()
    try:
        call = ["segment", "shipped", "--watch", str(folder), "--settle", "0.4", "--output-dir", str(out), "--force"]
        return main(call)
    finally:
        thread.join()


def statuses(out: Path) -> list[str]:
    """Returns the status in each record."""
    return sorted(read_json(path)["status"] for path in (out / "records").glob("*.json"))


def test_what_arrives_is_segmented_once_and_as_without_watching(
    scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    (folder / "bad.nii.gz").write_bytes((scans / "scan.nii.gz").read_bytes()[:300])

    def feed() -> bool:
        if statuses(out) == ["failed"] and not (folder / "scan.nii.gz").exists():
            shutil.copytree(scans, folder, dirs_exist_ok=True)
        return (out / "volumes.csv").is_file() and statuses(out) == ["done", "done", "failed"]

    assert watch(folder, out, feed) == 0
    plain = ["segment", "shipped", str(scans), "--tree", "--output-dir", str(tmp_path / "plain"), "--force"]
    assert main(plain) == 0
    expected = {path.name: path.read_bytes() for path in (tmp_path / "plain").glob("*_seg.nii.gz")}
    assert {path.name: path.read_bytes() for path in out.glob("*_seg.nii.gz")} == expected and len(expected) == 2
    with (out / "private/studies.csv").open() as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert {row["status"] for row in rows.values()} == {"done", "failed"} and len(rows) == 3
    assert "found no" in rows["bad"]["message"] or "truncated" in rows["bad"]["message"]
    assert str(folder / "DOE^JANE") in {row["input"] for row in rows.values()}
    public = "".join(path.read_text() for path in (out / "summary.json", out / "volumes.csv"))
    assert "DOE" not in public + capsys.readouterr().err and not UID.search(public)
    assert list((out / "private/series").iterdir()) == []

    before = {path: path.stat().st_mtime_ns for path in (out / "records").iterdir()}
    marker = time.monotonic() + 3
    assert watch(folder, out, lambda: time.monotonic() > marker, signal.SIGINT) == 130  # nothing is done again
    assert {path: path.stat().st_mtime_ns for path in (out / "records").iterdir()} == before

    def repair() -> bool:
        if statuses(out) == ["done", "done", "failed"] and (folder / "bad.nii.gz").stat().st_size == 300:
            shutil.copy(scans / "scan.nii.gz", folder / "bad.nii.gz")
        return statuses(out) == ["done", "done", "done", "failed"]

    assert watch(folder, out, repair) == 0
    assert len((out / "volumes.csv").read_text().splitlines()) == 4
    assert (read_json(out / "summary.json")["done"], read_json(out / "summary.json")["failed"]) == (3, 0)


def test_two_signals_at_once_stop_it_once() -> None:
    class Interrupted(threading.Event):
        calls = 0

        def set(self) -> None:
            self.calls += 1
            if self.calls == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            super().set()

    stop, before = Interrupted(), signal.getsignal(signal.SIGTERM)
    with signals_to(stop) as received:
        os.kill(os.getpid(), signal.SIGINT)
    assert stop.is_set() and stop.calls == 1 and received == {signal.SIGINT, signal.SIGTERM}
    assert signal.getsignal(signal.SIGTERM) == before


def test_watching_a_folder_and_naming_images_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for arguments in (["a.nii.gz", "--watch", "."], ["--watch", ".", "--shard", "1/2"], []):
        with pytest.raises(SystemExit):
            main(["segment", "shipped", *arguments, "--output-dir", str(tmp_path / "out")])
    assert "the following arguments are required: IMAGE" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_student_that_cannot_watch_and_a_folder_that_is_missing_are_refused(
    scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.support.paths import BUNDLES

    student = shutil.copytree(BUNDLES / "segmentation", tmp_path / "student")
    call = ["--watch", str(tmp_path / "none"), "--output-dir", str(tmp_path / "out")]
    assert main(["segment", str(student), *call]) == 1
    assert "Expected a folder to watch at " in capsys.readouterr().err
    (student / "configs/watch.json").unlink()
    assert main(["segment", str(student), *call]) == 1
    assert "Expected configs/watch.json in " in capsys.readouterr().err

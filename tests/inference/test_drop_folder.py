"""Images in a drop folder: complete once nothing changes any more and, for a DICOM series, no slice is missing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.inference.phantom_scan import dicom, nifti
from tskd_monai.data.dicom.series import series_hash
from tskd_monai.datasets.phantom.dicom import write_dicom_series
from tskd_monai.inference.drop_folder import Arrival, DropFolder

SETTLE, PATIENCE = 10.0, 100.0


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def drop(tmp_path: Path) -> tuple[DropFolder, Clock, Path]:
    (tmp_path / "in").mkdir()
    clock = Clock()
    return DropFolder(tmp_path / "in", tmp_path / "in" / "out", SETTLE, PATIENCE, clock=clock), clock, tmp_path / "in"


def after(drop: DropFolder, clock: Clock, seconds: float) -> list[Arrival]:
    """Returns what has arrived some seconds after a scan."""
    drop.scan()
    clock.seconds += seconds
    return drop.scan()


def slices(folder: Path, seed: int = 0) -> list[Path]:
    """Writes a series of six slices."""
    return list(write_dicom_series(folder, np.full((8, 8, 6), 7, np.uint16), np.diag([2.0, 2.0, 3.0, 1.0]), seed=seed))


def test_an_image_is_complete_once_it_has_not_changed_for_a_while(drop: tuple[DropFolder, Clock, Path]) -> None:
    watched, clock, folder = drop
    path = nifti(folder).path
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    assert after(watched, clock, SETTLE - 1) == []
    path.write_bytes(whole)
    assert after(watched, clock, SETTLE - 1) == []
    clock.seconds += 1
    (arrival,) = watched.scan()
    assert watched.case(arrival) == {"image": str(path), "name": "scan"}


def test_a_series_waits_for_its_missing_slice_and_is_given_up_late(drop: tuple[DropFolder, Clock, Path]) -> None:
    watched, clock, folder = drop
    files = slices(folder / "s")
    late = files[2].rename(folder.parent / "late.dcm")
    assert after(watched, clock, SETTLE) == []
    (reason,) = watched.waiting.values()
    assert "missing or uneven" in reason
    clock.seconds = PATIENCE
    assert len(watched.scan()) == 1 and not watched.waiting
    late.rename(files[2])
    (arrival,) = after(watched, clock, SETTLE)
    assert len(arrival.files) == 6 and not watched.waiting


def test_a_slice_that_is_half_copied_waits(drop: tuple[DropFolder, Clock, Path]) -> None:
    watched, clock, folder = drop
    files = slices(folder / "s")
    whole = files[5].read_bytes()
    for end in (len(whole) - 20, 60):  # without the last pixels; without a header
        files[5].write_bytes(whole[:end])
        assert after(watched, clock, SETTLE) == [] and len(watched.waiting) == 1
    files[5].write_bytes(whole)
    assert len(after(watched, clock, SETTLE)) == 1


def test_each_series_of_a_flat_folder_is_an_image_of_its_own(drop: tuple[DropFolder, Clock, Path]) -> None:
    watched, clock, folder = drop
    for seed in (1, 2):
        for path in slices(folder.parent / f"s{seed}", seed):
            shutil.move(path, folder / f"{seed}{path.name}")
    clock.seconds += 1
    first, second = after(watched, clock, SETTLE)
    assert {len(first.files), len(second.files)} == {6} and not set(first.files) & set(second.files)
    linked = Path(watched.case(first)["image"])
    assert {path.resolve() for path in linked.iterdir()} == {path.resolve() for path in first.files}
    assert first.name != second.name and all(len(arrival.name) == 8 for arrival in (first, second))


def test_only_the_series_that_still_grows_waits(drop: tuple[DropFolder, Clock, Path]) -> None:
    watched, clock, folder = drop
    slices(folder / "a", 1)
    grows = slices(folder / "b", 2)
    last = grows[5].rename(folder.parent / "late.dcm")
    watched.scan()
    clock.seconds += SETTLE
    last.rename(grows[5])
    (arrival,) = watched.scan()
    assert arrival.files[0].parent.name == "a"


def test_results_hidden_and_other_files_are_no_images(drop: tuple[DropFolder, Clock, Path]) -> None:
    watched, clock, folder = drop
    nifti(folder)
    for name in ("scan_seg.nii.gz", ".scan.nii.gz", "out/other.nii.gz", ".partial/scan.nii.gz"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(folder / "scan.nii.gz", folder / name)
    (folder / "notes.txt").write_text("no image")
    assert [arrival.name for arrival in after(watched, clock, SETTLE)] == ["scan"]


def test_a_series_is_named_by_its_uid_only(drop: tuple[DropFolder, Clock, Path]) -> None:
    watched, clock, folder = drop
    dicom(folder / "Doe^Jane")
    (arrival,) = after(watched, clock, SETTLE)
    from pydicom import dcmread

    assert arrival.name == series_hash(str(dcmread(arrival.files[0]).SeriesInstanceUID))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: DropFolder(path / "none", path / "out", 1, 1), "Expected a folder to watch at "),
        (lambda path: DropFolder(path, path, 1, 1), "Expected an output folder other than the watched "),
        (lambda path: DropFolder(path, path / "out", 0, 1), "Expected positive seconds for --settle and --patience"),
    ],
)
def test_a_folder_that_cannot_be_watched_is_refused(
    make: Callable[[Path], DropFolder], message: str, tmp_path: Path
) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        make(tmp_path)

"""Rows of the fault matrix: paths of inputs and outputs."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.inference.fault_rows import EXACT, REFUSED, Given, Row
from tests.inference.phantom_scan import dicom, nifti


def _unicode(folder: Path) -> Given:
    return nifti(folder, name="Überweisung 日本 (1)/Müller ♥.nii.gz")


def _unicode_series(folder: Path) -> Given:
    given = dicom(folder)
    shutil.move(given.path, folder / "Überweisung 日本")
    return Given(folder / "Überweisung 日本", given.affine, given.shape)


def _long_path(folder: Path) -> Given:
    return nifti(folder, name="/".join(["a" * 200] * 5 + ["scan.nii.gz"]))


def _long_name(folder: Path) -> Given:
    return nifti(folder, name="ä" * 120 + ".nii.gz")


def _unreadable(folder: Path) -> Given:
    given = dicom(folder)
    (given.path / "more").mkdir()
    (given.path / "more").chmod(0)
    (folder / "output").mkdir()
    (folder / "output").chmod(0o777)
    return given


def _not_a_folder(folder: Path) -> Given:
    given = nifti(folder)
    return Given(given.path / "series", given.affine, given.shape)


def _read_only(folder: Path) -> Given:
    (folder / "output").mkdir()
    (folder / "output").chmod(0o555)
    return nifti(folder)


def _full_disk(folder: Path) -> Given:
    given = nifti(folder)
    disk = folder / "disk"
    room = os.statvfs(disk)
    (disk / "filler").write_bytes(bytes(room.f_bavail * room.f_bsize))
    return Given(given.path, output_dir=disk)


ROWS = [
    Row("unicode in paths", EXACT, [_unicode, _unicode_series]),
    Row("path of more than 1000 characters", EXACT, [_long_path]),
    Row("file name of 255 bytes", EXACT, [_long_name]),
    Row("path through a file", REFUSED, [_not_a_folder], "found nothing"),
]
AS_NOBODY = [
    Row("unreadable folder", REFUSED, [_unreadable], "Expected a readable folder, found"),
    Row("read-only output", REFUSED, [_read_only], "permission to write output, found: Permission denied"),
]
ON_A_FULL_DISK = Row("full disk", REFUSED, [_full_disk], "found: No space left on device; free some space")

"""A valid archive is unpacked completely or not at all; attacks are in tests/attacks."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path

import pytest

from tskd_monai.files.archives import unpack_archives

FILES = {"images/a.nii": b"image", "b.txt": b"text"}


def _archive(folder: Path, suffix: str) -> Path:
    path = folder / f"data{suffix}"
    source = folder / "source"
    for name, content in FILES.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(content)
    if suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name in FILES:
                archive.write(source / name, name)
    else:
        with tarfile.open(path, "w:" + suffix.rpartition(".")[2].replace("tar", "")) as archive:
            archive.add(source, ".")
    return path


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz", ".tar.xz"])
def test_files_come_out_as_they_went_in(tmp_path: Path, suffix: str) -> None:
    folder = unpack_archives([_archive(tmp_path, suffix)], tmp_path / "out" / "data", max_bytes=100)
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert found == FILES
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["data"]


def test_refused_archive_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Expected at most 5 bytes and"):
        unpack_archives([_archive(tmp_path, ".zip")], tmp_path / "out" / "data", max_bytes=5)
    assert list((tmp_path / "out").iterdir()) == []


def test_damaged_archive_and_folder_that_is_there_are_refused(tmp_path: Path) -> None:
    path = _archive(tmp_path, ".tar.gz")
    with pytest.raises(FileExistsError, match="Expected no folder .*source yet"):
        unpack_archives([path], tmp_path / "source", max_bytes=100)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="found data.tar.gz damaged"):
        unpack_archives([path], tmp_path / "out", max_bytes=100)


def test_two_archives_are_unpacked_into_one_folder_and_no_file_replaces_another(tmp_path: Path) -> None:
    first = _archive(tmp_path, ".zip")
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.writestr("images/c.nii", b"more")
    folder = unpack_archives([first, tmp_path / "more.zip"], tmp_path / "out" / "data", max_bytes=100)
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == ["a.nii", "b.txt", "c.nii"]
    with pytest.raises(ValueError, match=r"found data\.zip damaged or of another kind"):
        unpack_archives([first, first], tmp_path / "out" / "twice", max_bytes=100)

"""Archives of public datasets, unpacked so that no member leaves the folder or fills the disk."""

from __future__ import annotations

import lzma
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

MAX_MEMBERS = 1_000_000
DAMAGE = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError),
    *(FileExistsError, NotADirectoryError, IsADirectoryError),  # two members of the same name, or one inside the other
)


@dataclass(frozen=True)
class Member:
    """A file of an archive.

    Attributes:
        name: relative path in the archive.
        size: unpacked size in bytes, as declared; readers return no more.
        open: returns a stream of its content.
    """

    name: str
    size: int
    open: Callable[[], IO[bytes]]


def unpack_archives(archives: Sequence[str | Path], folder: str | Path, max_bytes: int) -> Path:
    """Unpacks the files of zip or tar archives into one new folder, either completely or not at all.

    Owners, modes and times are not restored. Links, devices and anything else that is neither file nor folder are
    rejected, not followed.

    Args:
        archives: paths of `.zip` or `.tar` files, or of tar files compressed as `.gz`, `.bz2` or `.xz`.
        folder: folder to create.
        max_bytes: limit on the total size of the files of each archive: the known size of the dataset with some margin.

    Returns:
        The folder.

    Raises:
        FileExistsError: if the folder exists.
        ValueError: if an archive is damaged or too large, or a member is a link, leaves the folder, or occurs twice.
    """
    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(f"Expected no folder {folder} yet, found one; remove it to unpack again.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".unpacking-") as temporary:
        for archive in map(Path, archives):
            try:
                _unpack(archive, Path(temporary), max_bytes)
            except DAMAGE as error:
                raise ValueError(
                    f"Expected a whole archive, found {archive.name} damaged or of another kind ({error}); get it "
                    "again."
                ) from error
        shutil.copymode(folder.parent, temporary)
        Path(temporary).rename(folder)
        Path(temporary).mkdir()  # for the context manager to remove
    return folder


def _unpack(archive: Path, target: Path, max_bytes: int) -> None:
    left = max_bytes
    for count, member in enumerate(_members(archive)):
        path = target / _checked_name(member.name, archive.name)
        left -= member.size
        if left < 0 or count >= MAX_MEMBERS:
            raise ValueError(
                f"Expected at most {max_bytes} bytes and {MAX_MEMBERS} files in {archive.name}, found more; "
                "it is not the dataset that was meant."
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        with member.open() as source, path.open("xb") as file:
            shutil.copyfileobj(source, file)


def _members(archive: Path) -> Iterator[Member]:
    if zipfile.is_zipfile(archive):
        yield from _zip_members(archive)
    else:
        yield from _tar_members(archive)


def _zip_members(archive: Path) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as content:
        for info in content.infolist():
            kind = info.external_attr >> 16 & 0o170000  # as written on Unix; 0 elsewhere
            if kind not in (0, 0o100000, 0o040000):
                raise ValueError(_refusal(archive.name, info.filename, "a link or device"))
            if not info.is_dir():
                yield Member(info.filename, info.file_size, lambda info=info: content.open(info))  # type: ignore[misc]


def _tar_members(archive: Path) -> Iterator[Member]:
    with tarfile.open(archive) as content:
        for info in content:
            if not (info.isreg() or info.isdir()) or info.issparse():
                raise ValueError(_refusal(archive.name, info.name, "a link, a device or a sparse file"))
            if info.isreg():
                yield Member(info.name, info.size, lambda info=info: _tar_stream(content, info))  # type: ignore[misc]


def _tar_stream(content: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    stream = content.extractfile(info)
    if stream is None:
        raise tarfile.ReadError(f"no data of {info.name}")
    return stream


def _checked_name(name: str, archive: str) -> PurePosixPath:
    """Returns a member's path, checked to stay below the folder, on Windows too."""
    path, foreign = PurePosixPath(name), PureWindowsPath(name)
    leads_out = path.is_absolute() or foreign.is_absolute() or foreign.drive or ".." in (*path.parts, *foreign.parts)
    if leads_out or "\0" in name or not path.parts:
        raise ValueError(_refusal(archive, name, "a path that leads out of the folder"))
    return path


def _refusal(archive: str, name: str, what: str) -> str:
    return f"Expected files and folders in {archive}, found {what}: {name!r}; do not use this archive."

"""Attacks by archives from untrusted sources."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.attacks.attack import Attack
from tskd_monai.files.archives import unpack_archives

Monkey = pytest.MonkeyPatch
MEGABYTE = 1 << 20
LIMIT = MEGABYTE
LINK = 0o120777 << 16


def _zip(*members: tuple[str, bytes, int]) -> Callable[[Path], Path]:
    def plant(folder: Path) -> Path:
        with zipfile.ZipFile(folder / "data.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content, attributes in members:
                info = zipfile.ZipInfo(name.replace("ROOT", str(folder)))
                info.external_attr = attributes
                archive.writestr(info, content, zipfile.ZIP_DEFLATED)
        return folder / "data.zip"

    return plant


def _tar(
    name: str, kind: bytes = tarfile.REGTYPE, target: str = "", size: int = 0, more: str = ""
) -> Callable[[Path], Path]:
    def plant(folder: Path) -> Path:
        with tarfile.open(folder / "data.tar.gz", "w:gz") as archive:
            info = tarfile.TarInfo(name.replace("ROOT", str(folder)))
            info.type, info.linkname, info.size = kind, target.replace("ROOT", str(folder)), size
            archive.addfile(info, io.BytesIO(bytes(size)))
            if more:
                archive.addfile(tarfile.TarInfo(more), io.BytesIO())
        return folder / "data.tar.gz"

    return plant


def _unpack(archive: Path) -> None:
    unpack_archives([archive], archive.parent / "data", LIMIT)


def _naive_zip(archive: Path, monkey: Monkey) -> bool:
    """Joins names without checks, as the code does that such archives target."""
    target = archive.parent / "naive"
    target.mkdir()
    with zipfile.ZipFile(archive) as content:
        for info in content.infolist():
            path = target / info.filename
            if info.external_attr == LINK:
                path.symlink_to(content.read(info).decode())
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content.read(info))
    return _is_harmed(archive.parent, target)


def _naive_tar(archive: Path, monkey: Monkey) -> bool:
    target = archive.parent / "naive"
    target.mkdir()
    with tarfile.open(archive) as content:
        content.extractall(target, **({"filter": "fully_trusted"} if hasattr(tarfile, "data_filter") else {}))
    return _is_harmed(archive.parent, target)


def _is_harmed(folder: Path, target: Path) -> bool:
    """Returns whether a file is outside the folder, is not a regular file, or is far larger than the archive."""
    outside = (folder / "planted").exists() or (folder.parent / "planted").exists()
    found = [path for path in target.rglob("*") if not path.is_dir() or path.is_symlink()]
    odd = any(path.is_symlink() or not path.is_file() or path.stat().st_nlink > 1 for path in found)
    return outside or odd or sum(path.stat().st_size for path in found) > LIMIT


def _naive_windows(archive: Path, monkey: Monkey) -> bool:
    """On Windows the name leaves the folder."""
    import ntpath

    with zipfile.ZipFile(archive) as content:
        joined = ntpath.normpath(ntpath.join("C:\\data\\naive", content.infolist()[0].filename))
    return not joined.startswith("C:\\data\\naive")


OUT, LINKS = "leads out of the folder", "a link"
ROWS = [
    Attack("zip-slip", _zip(("../planted", b"x", 0)), _unpack, OUT, _naive_zip),
    Attack("zip-slip below a folder", _zip(("a/../../planted", b"x", 0)), _unpack, OUT, _naive_zip),
    Attack("absolute path in a zip", _zip(("ROOT/planted", b"x", 0)), _unpack, OUT, _naive_zip),
    Attack("backslashes in a zip", _zip(("..\\..\\planted", b"x", 0)), _unpack, OUT, _naive_windows),
    Attack("drive in a zip", _zip(("D:planted", b"x", 0)), _unpack, OUT, _naive_windows),
    Attack("link in a zip", _zip(("link", b"..", LINK), ("link/planted", b"x", 0)), _unpack, LINKS, _naive_zip),
    Attack("zip bomb", _zip(("zeros", bytes(64 * MEGABYTE), 0)), _unpack, "at most 1048576 bytes", _naive_zip),
    Attack("tar-slip", _tar("../planted"), _unpack, OUT, _naive_tar),
    Attack("absolute path in a tar", _tar("ROOT/planted"), _unpack, OUT, _naive_tar),
    Attack("link in a tar", _tar("link", tarfile.SYMTYPE, "..", more="link/planted"), _unpack, LINKS, _naive_tar),
    Attack("link to a file in a tar", _tar("link", tarfile.SYMTYPE, "/etc/hostname"), _unpack, LINKS, _naive_tar),
    Attack("pipe in a tar", _tar("pipe", tarfile.FIFOTYPE), _unpack, "a device", _naive_tar),
    Attack("device in a tar", _tar("device", tarfile.CHRTYPE), _unpack, "a device", lambda archive, monkey: "device"),
    Attack("tar bomb", _tar("zeros", size=64 * MEGABYTE), _unpack, "at most 1048576 bytes", _naive_tar),
]

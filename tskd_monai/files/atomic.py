"""Files that are either complete or absent."""

from __future__ import annotations

import errno
import os
import platform
import re
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

NOT_WRITABLE = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.ENAMETOOLONG,
    errno.ENOTDIR,
    errno.EEXIST,
)
"""Errors the user can fix: permissions, space, the length of a name, a file where a folder should be."""
PROBE_BYTES = 1 << 20
TEMPORARY = re.compile(r"\.(?P<host>[0-9a-f]{8})\.(?P<process>\d+)\.tmp\..+")
ABANDONED_SECONDS = 24 * 3600
"""Age after which a temporary file of another host is abandoned: a restarted container is another host."""


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path in the folder of `path` and moves it there once the block has succeeded.

    The temporary name keeps the suffixes of `path`, which some writers depend on. The file is flushed to disk before it
    is moved, so a kill or a full disk leaves the previous file or none, never a partial one. Files left by a killed
    process are removed when this process first writes to the folder.

    Args:
        path: file to write; its folder is created if missing.

    Raises:
        OSError: if the disk is full or the folder is not writable; states which, and what to do.
    """
    path = Path(path)
    temporary = _temporary(path)
    with explained_writing(path, temporary):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_over(path.parent)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)


@contextmanager
def explained_writing(path: Path, probe: Path) -> Iterator[None]:
    """Explains a failure of the block that was caused by missing space or permission.

    Args:
        path: file that is being written.
        probe: file that is extended to find the cause, since some writers hide it behind errors of their own; always
            removed.

    Raises:
        OSError: instead of the exception of the block.
    """
    try:
        yield
    except Exception as error:
        reason = error if _is_refusal(error) else _refusal(probe)
        if not isinstance(reason, OSError) or reason.errno is None:
            raise
        raise OSError(
            reason.errno,
            f"Expected room and permission to write {path.name}, found: {os.strerror(reason.errno)}; "
            "free some space or choose another output folder.",
        ) from error
    finally:
        if probe.exists():
            probe.unlink()


def write_once(path: str | Path, text: str) -> None:
    """Writes a file unless it exists; of several processes that do so at the same time, the first one wins.

    Args:
        path: file to write; its folder exists.
        text: content of the file.
    """
    path = Path(path)
    temporary = _temporary(path)
    with explained_writing(path, temporary):
        temporary.write_text(text, encoding="utf-8")
        with suppress(FileExistsError):
            os.link(temporary, path)


def require_writable(folder: str | Path) -> None:
    """Creates a folder and a file in it, which is removed: fails early instead of after hours of computation.

    Raises:
        OSError: if the folder is not writable; states why, and what to do.
    """
    folder = Path(folder)
    probe = _temporary(folder / "probe")
    with explained_writing(folder, probe):
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()


def _is_refusal(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in NOT_WRITABLE


def _refusal(probe: Path) -> OSError | None:
    """Returns the error that keeps a file from growing, None if there is none."""
    try:
        with probe.open("ab") as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error if _is_refusal(error) else None
    return None


def _temporary(path: Path) -> Path:
    return path.with_name(f".{_host()}.{os.getpid()}.tmp.{path.name}")


def _host() -> str:
    """Returns an eight-digit id of this host or container: process ids are not comparable across hosts."""
    numbering = Path("/proc/self/ns/pid")
    name = f"{platform.node()} {numbering.readlink() if numbering.is_symlink() else ''}"
    return f"{zlib.crc32(name.encode()):08x}"


@cache
def _remove_left_over(folder: Path) -> None:
    """Removes the temporary files of processes that have ended, once per folder."""
    for path in folder.glob(".*.tmp.*"):
        if (match := TEMPORARY.fullmatch(path.name)) and _is_abandoned(path, match["host"], int(match["process"])):
            path.unlink(missing_ok=True)


def _is_abandoned(path: Path, host: str, process: int) -> bool:
    if host == _host():
        return not _is_running(process)
    try:
        return time.time() - path.stat().st_mtime > ABANDONED_SECONDS
    except FileNotFoundError:  # just moved by its writer
        return False


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True

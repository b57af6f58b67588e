"""Files that are either whole or absent."""

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
"""What the user can fix: permissions, space, the length of a name, a file where a folder should be."""
PROBE_BYTES = 1 << 20
TEMPORARY = re.compile(r"\.(?P<host>[0-9a-f]{8})\.(?P<process>\d+)\.tmp\..+")
ABANDONED_SECONDS = 24 * 3600
"""After which a temporary file of another machine is nobody's: a container started again is another one."""


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yields a temporary name in the folder of `path` and moves it there once the block has ended well.

    The name keeps the suffixes of `path`, which some writers go by. The file is flushed to disk before it is moved,
    so a kill or a full disk leaves the previous file or none, never half of one. What a killed process has left in the
    folder is removed when this process writes there for the first time.

    Args:
        path: the file to write; its folder is made when missing.

    Raises:
        OSError: if the disk is full or the folder takes no file; says which and what to do.
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
    """Says in plain words when the block failed because there is no room or permission to write.

    Args:
        path: that is written.
        probe: a file that is made longer to find that out, for some writers hide the reason behind errors of their
            own; it is removed in any case.

    Raises:
        OSError: instead of what the block raised.
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
    """Writes a file unless there is one: of several processes that do so at one time, the first one's stays.

    Args:
        path: of the file; its folder exists.
        text: its content.
    """
    path = Path(path)
    temporary = _temporary(path)
    with explained_writing(path, temporary):
        temporary.write_text(text, encoding="utf-8")
        with suppress(FileExistsError):
            os.link(temporary, path)


def require_writable(folder: str | Path) -> None:
    """Makes a folder and a file in it, which is removed: before hours are spent on what could not be written.

    Raises:
        OSError: if the folder takes no file; says why and what to do.
    """
    folder = Path(folder)
    probe = _temporary(folder / "probe")
    with explained_writing(folder, probe):
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()


def _is_refusal(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in NOT_WRITABLE


def _refusal(probe: Path) -> OSError | None:
    """Returns what keeps a file from growing, None where nothing does."""
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
    """This machine or container in eight digits: a number of a process means nothing in another one."""
    numbering = Path("/proc/self/ns/pid")
    name = f"{platform.node()} {numbering.readlink() if numbering.is_symlink() else ''}"
    return f"{zlib.crc32(name.encode()):08x}"


@cache
def _remove_left_over(folder: Path) -> None:
    """Removes the temporary files of processes that have ended, once for each folder."""
    for path in folder.glob(".*.tmp.*"):
        if (match := TEMPORARY.fullmatch(path.name)) and _is_abandoned(path, match["host"], int(match["process"])):
            path.unlink(missing_ok=True)


def _is_abandoned(path: Path, host: str, process: int) -> bool:
    if host == _host():
        return not _is_running(process)
    try:
        return time.time() - path.stat().st_mtime > ABANDONED_SECONDS
    except FileNotFoundError:  # its writer has just moved it
        return False


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True

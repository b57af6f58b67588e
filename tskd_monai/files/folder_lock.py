"""One owner of an output folder: while a process writes there, no other one does.

The lock is the operating system's (``flock``): it ends with its process, however that ends.
"""

from __future__ import annotations

import atexit
import errno
import json
import logging
import os
import platform
import weakref
from datetime import datetime
from pathlib import Path
from types import TracebackType

from filelock import BaseFileLock, FileLock, Timeout

from tskd_monai.files.atomic import explained_writing, require_writable
from tskd_monai.files.json_files import read_json

logger = logging.getLogger(__name__)

LOCK_FILE = ".tskd.lock"
"""Hidden, so that no folder's list of images has it; it is removed with the lock."""
WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)


class FolderInUseError(OSError):
    """Another process writes to the folder."""


class FolderLock:
    """A folder that this process has for itself until `release`, the end of a `with` block, or its own end.

    Args:
        lock: held; None where there are no locks.
        made: the folder, where it was made for this; it goes with the lock if nothing was written to it.
    """

    def __init__(self, lock: BaseFileLock | None, made: Path | None = None) -> None:
        self._finalizer = None if lock is None else weakref.finalize(self, _release, lock, os.getpid(), made)
        if self._finalizer is not None:
            # At the end of the process finalizers may run after filelock's own end, which leaves the file behind.
            atexit.register(self._finalizer)

    def release(self) -> None:
        """Lets others write to the folder; again, it does nothing."""
        if self._finalizer is not None:
            atexit.unregister(self._finalizer)
            self._finalizer()

    def __enter__(self) -> FolderLock:
        """Returns this lock."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> None:
        """Releases the folder."""
        self.release()


def hold_folder(folder: str | Path) -> FolderLock:
    """Takes a folder for this process, which may take it more than once; makes it when missing.

    Keep the lock that is returned: the folder is released when nothing refers to it any more. On a file system without
    locks a warning is logged instead.

    Args:
        folder: that is going to be written to. Folders in it are others.

    Raises:
        FolderInUseError: if another process holds the folder; says which, on which host, since when, what to do.
        OSError: if the folder takes no file.
    """
    folder = Path(folder)
    made = None if folder.exists() else folder
    require_writable(folder)
    path = folder / LOCK_FILE
    lock = FileLock(path, timeout=0, thread_local=False, is_singleton=True, fallback_to_soft=False)
    left_by = _owner(path) if path.exists() and not lock.is_locked else None  # some releases of filelock empty it
    try:
        with explained_writing(path, folder / f"{LOCK_FILE}.probe"):
            lock.acquire()
    except Timeout:
        raise FolderInUseError(
            f"Expected the output folder {folder.name} to be free, found {_owner(path)} writing to it; wait until it "
            "has ended, end it, or choose another output folder."
        ) from None
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
        logger.warning("The file system of %s has no locks: see that no second process writes to it.", folder.name)
        return FolderLock(None)
    if left_by is not None:
        logger.info("The output folder %s was left by %s; taken over.", folder.name, left_by)
    owner = {"process": os.getpid(), "host": platform.node(), "since": f"{datetime.now():%Y-%m-%d %H:%M}"}
    held = FolderLock(lock, made)
    try:
        with explained_writing(path, folder / f"{LOCK_FILE}.probe"):
            path.write_text(json.dumps(owner) + "\n", encoding="utf-8")
    except OSError:
        held.release()
        raise
    return held


def _owner(path: Path) -> str:
    """Returns who is written in a lock file; it is empty for a moment, and on some systems not readable for others."""
    try:
        owner = read_json(path)
        return f"process {int(owner['process'])} on host {owner['host']} (since {owner['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _release(lock: BaseFileLock, process: int, made: Path | None) -> None:
    """Removes the lock file while it is still held, so that nobody can hold a file of another name."""
    if os.getpid() != process:  # a data-loading process that was forked: the lock is not its own
        return
    if lock.lock_counter == 1:
        Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()
    if made is not None and made.is_dir() and not any(made.iterdir()):
        made.rmdir()

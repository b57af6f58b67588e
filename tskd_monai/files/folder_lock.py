"""Exclusive use of an output folder: only one process writes to it at a time.

The lock is the operating system's (``flock``), so it is released when its process ends, however it ends.
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
from tskd_monai.files.shard import Shard

logger = logging.getLogger(__name__)

LOCK_FILE = ".tskd.lock"
"""Hidden, so that it appears in no folder's list of images; removed with the lock."""
SHARD_LOCKS = ".tskd.*-of-*.lock"
SECONDS_TO_START, SECONDS_TO_WRITE_TABLES = 60.0, 900.0
"""How long a shard waits for others that start, or write the tables of all cases."""
WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)


class FolderInUseError(OSError):
    """Another process writes to the folder."""


class FolderLock:
    """A folder locked by this process until `release`, the end of a `with` block, or the end of the process.

    Args:
        lock: the lock held; None where the file system has no locks.
        made: the folder, if it was created for the lock; removed with it if nothing was written to it.
    """

    def __init__(self, lock: BaseFileLock | None, made: Path | None = None) -> None:
        self._finalizer = None if lock is None else weakref.finalize(self, _release, lock, os.getpid(), made)
        if self._finalizer is not None:
            # At interpreter exit, finalizers may run after filelock's own, which leaves the file behind.
            atexit.register(self._finalizer)

    def release(self) -> None:
        """Unlocks the folder; has no effect the second time."""
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
    """Locks a folder for this process, which may lock it more than once; creates it if missing.

    Keep the returned lock: the folder is unlocked when it is no longer referenced. On a file system without locks a
    warning is logged instead.

    Args:
        folder: folder that is going to be written to. Its subfolders are not locked.

    Raises:
        FolderInUseError: if another process holds the lock, or that of a shard; states which, on which host, since
            when, and what to do.
        OSError: if the folder is not writable.
    """
    held = _hold(Path(folder), LOCK_FILE)
    _require_no_shard(Path(folder), held)
    return held


def hold_shard(folder: str | Path, shard: Shard) -> FolderLock:
    """Locks a folder for one shard of a run: other shards of as many may write to it, and nobody else.

    Args:
        folder: as for `hold_folder`.
        shard: shard of this process.

    Raises:
        FolderInUseError: if another process writes the same shard, a shard of another number of shards, or the whole.
        OSError: if the folder is not writable.
    """
    folder = Path(folder)
    with _hold(folder, LOCK_FILE, SECONDS_TO_START) as starting:
        _require_no_shard(folder, starting, of=shard.count)
        return _hold(folder, f".tskd.{shard.label}.lock")


def hold_tables(folder: str | Path) -> FolderLock:
    """Locks the tables of all cases for a shard that holds its own lock; waits for other shards.

    Raises:
        FolderInUseError: if another process holds it for 15 minutes.
    """
    return _hold(Path(folder), LOCK_FILE, SECONDS_TO_WRITE_TABLES)


def _require_no_shard(folder: Path, held: FolderLock, of: int = 0) -> None:
    """Raises FolderInUseError, after `held` is released, if a process writes a shard; shards of `of` are permitted."""
    for path in folder.glob(SHARD_LOCKS):
        if of and path.name.endswith(f"-of-{of}.lock"):
            continue
        try:
            _hold(folder, path.name).release()  # left by a process that was killed
        except FolderInUseError:
            held.release()
            raise


def _hold(folder: Path, name: str, wait: float = 0.0) -> FolderLock:
    """Returns the lock of a file in a folder, for which it waits some seconds."""
    made = None if folder.exists() else folder
    require_writable(folder)
    path = folder / name
    lock = FileLock(path, timeout=0, thread_local=False, is_singleton=True, fallback_to_soft=False)
    # some releases of filelock truncate the file
    left_by = _owner(path) if not wait and path.exists() and not lock.is_locked else None
    try:
        with explained_writing(path, folder / f"{name}.probe"):
            lock.acquire(timeout=wait)
    except Timeout:
        raise FolderInUseError(
            f"Expected the output folder {folder.name} to be free, found {_owner(path)} writing to it; wait until it "
            "has ended, end it, or choose another output folder."
        ) from None
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
        logger.warning("The file system of %s has no locks: make sure that no other process writes to it.", folder.name)
        return FolderLock(None)
    if left_by is not None:
        logger.info("The output folder %s was left by %s; resuming in it.", folder.name, left_by)
    owner = {"process": os.getpid(), "host": platform.node(), "since": f"{datetime.now():%Y-%m-%d %H:%M}"}
    held = FolderLock(lock, made)
    try:
        with explained_writing(path, folder / f"{name}.probe"):
            path.write_text(json.dumps(owner) + "\n", encoding="utf-8")
    except OSError:
        held.release()
        raise
    return held


def _owner(path: Path) -> str:
    """Returns the owner named in a lock file, which is briefly empty and on some systems unreadable for others."""
    try:
        owner = read_json(path)
        return f"process {int(owner['process'])} on host {owner['host']} (since {owner['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _release(lock: BaseFileLock, process: int, made: Path | None) -> None:
    """Removes the lock file while it is still held, so that no process can hold a deleted file."""
    if os.getpid() != process:  # a forked data-loading process: the lock is not its own
        return
    if lock.lock_counter == 1:
        Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()
    if made is not None and made.is_dir() and not any(made.iterdir()):
        made.rmdir()

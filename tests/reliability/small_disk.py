"""A disk of a few megabytes that can be filled up and made read-only; mounting it requires root."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FILLER = "filler"
BLOCK = bytes(4096)


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """Yields a folder that is a disk of its own, in memory, while the block runs.

    Args:
        folder: mount point; created if missing.
        size: size in bytes.

    Raises:
        PermissionError: if this process may not mount.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PermissionError(f"Expected to be allowed to mount a tmpfs, found: {done.stderr.strip()}; run as root.")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(disk: Path, left: int) -> None:
    """Fills a disk with one file until the given number of bytes is left."""
    with (disk / FILLER).open("wb", buffering=0) as file:
        try:
            while file.write(BLOCK):
                pass
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
        os.truncate(file.fileno(), max(0, file.tell() - left))


def make_room(disk: Path) -> None:
    """Undoes `fill`."""
    (disk / FILLER).unlink()


def make_read_only(disk: Path, read_only: bool = True) -> None:
    """Mounts a disk again, read-only or writable."""
    subprocess.run(["mount", "-o", f"remount,{'ro' if read_only else 'rw'}", str(disk)], check=True)

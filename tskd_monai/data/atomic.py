"""Files that are either whole or absent."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tskd_monai.data.strict_json import parse_json

NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENAMETOOLONG)
"""What the user can mend: permissions, space, the length of a name."""


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yields a temporary name in the folder of `path` and moves it there once the block has ended well.

    The name keeps the suffixes of `path`, which some writers go by. The file is flushed to disk before it is moved,
    so a kill or a full disk leaves the former file or none, never half of one.

    Args:
        path: the file to write; its folder is made when missing.

    Raises:
        OSError: when the disk is full or the folder takes no file; says which and what to do.
    """
    path = Path(path)
    temporary = path.with_name(f".{os.getpid()}.tmp.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.errno not in NOT_WRITABLE:
            raise
        raise OSError(
            error.errno,
            f"Expected room and permission to write {path.name}, found: {os.strerror(error.errno)}; "
            "free some space or choose another output folder.",
        ) from error
    finally:
        if temporary.exists():
            temporary.unlink()


def write_json(path: str | Path, content: Any) -> None:
    """Writes `content` as indented JSON, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """Returns the content of a JSON file.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the file is not JSON as `strict_json` has it; names the file and the place or the reason.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"Expected a JSON file at {path}, found none.")
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"Expected JSON in {path}: {error}") from error

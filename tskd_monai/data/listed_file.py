"""Files that a list from outside names."""

from __future__ import annotations

from pathlib import Path


def is_there(path: Path) -> bool:
    """Whether there is a file or folder; a name that no file can have, too long or with a null character, has none."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False

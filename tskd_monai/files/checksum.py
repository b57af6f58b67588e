"""SHA-256 of the content of a file or folder, independent of its name and path."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from tskd_monai.files.json_files import read_json, write_json

BLOCK_BYTES = 1 << 20


def file_sha256(path: str | Path) -> str:
    """Returns the hex SHA-256 of a file."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


class ContentHashes:
    """SHA-256 of files and folders; a file is read once and then recognised by its size and modification time.

    Args:
        memory: JSON file that caches the hashes, created if missing. It contains paths, which may name patients: keep
            it in a private folder.
    """

    def __init__(self, memory: str | Path) -> None:
        self.memory = Path(memory)
        self._known: dict[str, list[Any]] = self._remembered()
        self._changed = False

    def of(self, path: str | Path) -> str:
        """Returns the hex SHA-256 of a file's bytes, or of the bytes of all files in a folder, in any order.

        Raises:
            FileNotFoundError: if the path does not exist.
        """
        path = Path(path).absolute()
        if not path.is_dir():
            return self._of_file(path)
        parts = sorted(self._of_file(file) for file in path.rglob("*") if file.is_file() and file.name[0] != ".")
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def save(self) -> None:
        """Writes the cache file if there are new hashes."""
        if self._changed:
            write_json(self.memory, self._known)
            self._changed = False

    def _of_file(self, path: Path) -> str:
        if not path.exists():
            raise FileNotFoundError(f"Expected a file or folder at {path}, found none; check the path.")
        state = path.stat()
        key, seen = str(path), [state.st_size, state.st_mtime_ns]
        known = self._known.get(key)
        if known is None or known[:2] != seen:
            known = self._known[key] = [*seen, file_sha256(path)]
            self._changed = True
        return str(known[2])

    def _remembered(self) -> dict[str, list[Any]]:
        if not self.memory.is_file():
            return {}
        try:
            content = read_json(self.memory)
        except ValueError:  # damaged: everything is read again
            return {}
        rows = content.items() if isinstance(content, dict) else ()
        return {path: row for path, row in rows if isinstance(row, list) and len(row) == 3}

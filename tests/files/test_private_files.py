from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tskd_monai.files.private_files import KEY, private_file, private_name


def test_folder_is_readable_by_its_owner_only_and_describes_itself(tmp_path: Path) -> None:
    path = private_file(tmp_path / "out", "studies.csv")
    assert path == tmp_path / "out" / "private" / "studies.csv"
    assert path.parent.stat().st_mode & 0o077 == 0
    assert "Keep this folder" in (path.parent / "README.txt").read_text()


def test_name_is_the_same_each_time_and_another_with_another_key(tmp_path: Path) -> None:
    names = [private_name(tmp_path / out, "Doe/Jane") for out in ("a", "a", "b")]
    assert names[0] == names[1] != names[2]
    assert len(names[0]) == 8
    assert names[0] != hashlib.sha256(b"Doe/Jane").hexdigest()[:8]
    assert private_name(tmp_path / "a", "Doe/Jim") != names[0]


def test_damaged_key_is_refused(tmp_path: Path) -> None:
    private_file(tmp_path, KEY).write_text("abcd\n")
    with pytest.raises(ValueError, match="Expected 32 bytes in private/key.txt, found 2"):
        private_name(tmp_path, "Doe")

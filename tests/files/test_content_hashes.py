"""Content is identified by its bytes, which are read once."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pytest

from tskd_monai.files import checksum
from tskd_monai.files.checksum import ContentHashes


def test_bytes_count_and_name_path_and_order_do_not(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    for folder, names in ((first, "12"), (second, "yx")):
        folder.mkdir()
        for name, content in zip(names, (b"one", b"two"), strict=True):
            (folder / name).write_bytes(content)
    hashes = ContentHashes(tmp_path / "memory.json")
    assert hashes.of(first / "1") == hashlib.sha256(b"one").hexdigest() == hashes.of(second / "y")
    assert hashes.of(first) == hashes.of(second) != hashes.of(first / "1")
    (second / "x").write_bytes(b"other")
    assert hashes.of(first) != hashes.of(second)
    with pytest.raises(FileNotFoundError, match="Expected a file or folder at .*nowhere, found none"):
        hashes.of(tmp_path / "nowhere")


def test_a_file_is_read_again_only_when_it_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    original = checksum.file_sha256
    monkeypatch.setattr(checksum, "file_sha256", lambda path: read.append(path.name) or original(path))
    scan, memory = tmp_path / "scan", tmp_path / "private" / "memory.json"
    scan.write_bytes(b"one")

    hashes = ContentHashes(memory)
    before = hashes.of(scan)
    hashes.save()
    assert ContentHashes(memory).of(scan) == before and read == ["scan"]

    scan.write_bytes(b"two")  # of the same size
    os.utime(scan, ns=(1, 1))
    assert ContentHashes(memory).of(scan) != before and read == ["scan"] * 2

    shutil.copytree(tmp_path, tmp_path.with_name("moved"))
    assert (
        ContentHashes(tmp_path.with_name("moved") / "private" / "memory.json").of(tmp_path.with_name("moved") / "scan")
        == hashlib.sha256(b"two").hexdigest()
    )


@pytest.mark.parametrize("damage", ["{", "[]", '{"a": 1}'])
def test_a_damaged_memory_is_done_without(tmp_path: Path, damage: str) -> None:
    (tmp_path / "memory.json").write_text(damage)
    (tmp_path / "scan").write_bytes(b"one")
    assert ContentHashes(tmp_path / "memory.json").of(tmp_path / "scan") == hashlib.sha256(b"one").hexdigest()

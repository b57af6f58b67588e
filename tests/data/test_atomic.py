from __future__ import annotations

from pathlib import Path

import pytest

from tskd_monai.data.atomic import atomic_path, read_json, write_json


def test_a_file_appears_whole_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "volume.nii.gz"
    with atomic_path(target) as temporary:
        assert temporary.parent == target.parent and temporary.name.endswith(".nii.gz")
        temporary.write_text("first")
        assert not target.exists()
    assert [path.name for path in target.parent.iterdir()] == ["volume.nii.gz"]
    assert target.read_text() == "first"


def _write_half(target: Path) -> None:
    with atomic_path(target) as temporary:
        temporary.write_text("half")
        raise OSError("disk full")


def test_a_failing_writer_keeps_the_former_file(tmp_path: Path) -> None:
    target = tmp_path / "record.json"
    target.write_text("former")
    with pytest.raises(OSError, match="disk full"):
        _write_half(target)
    assert target.read_text() == "former"
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]


def test_a_writer_that_writes_nothing_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="out.bin"), atomic_path(tmp_path / "out.bin"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_json_comes_back_equal(tmp_path: Path) -> None:
    content = {"b": [1, 2.5, None], "a": {"µ": "Niere"}}
    write_json(tmp_path / "x.json", content)
    assert read_json(tmp_path / "x.json") == content
    assert list(read_json(tmp_path / "x.json")) == ["b", "a"]  # the order is the writer's


def test_nan_is_refused_and_the_former_file_stays(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"dice": 0.5})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"dice": float("nan")})
    assert read_json(tmp_path / "x.json") == {"dice": 0.5}


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"Expected a JSON file at .*gone\.json, found none"):
        read_json(tmp_path / "gone.json")


@pytest.mark.parametrize("content", [b'{"a": 1,', b"\xff\xfe\x00"])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"Expected JSON in .*bad\.json: "):
        read_json(tmp_path / "bad.json")

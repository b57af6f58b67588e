"""The record of an export: every field is checked before it selects an engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tskd_monai.files.json_files import write_json
from tskd_monai.inference.exported_files import (
    ONNX_FILE,
    RECORD,
    WEIGHTS,
    exported_file,
    file_record,
    is_accepted,
    weights_record,
)

ROW = {"engine": "openvino", "precision": "bf16", "accepted": True}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for name in (WEIGHTS, ONNX_FILE):
        (tmp_path / name).write_bytes(b"\x08\x07" + name.encode())
    write(tmp_path)
    return tmp_path


def write(models: Path, **changes: Any) -> None:
    content = {**weights_record(models), "files": file_record(models / ONNX_FILE), "parity": [ROW]}
    write_json(models / RECORD, {**content, **changes})


def test_a_file_is_taken_as_it_was_exported(models: Path) -> None:
    assert exported_file(models, ONNX_FILE) == models / ONNX_FILE
    assert is_accepted(models, "openvino", "bf16") and not is_accepted(models, "openvino", "int8")


@pytest.mark.parametrize("name", [WEIGHTS, ONNX_FILE])
def test_a_pointer_instead_of_a_file_is_named(models: Path, name: str) -> None:
    (models / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 8\n")
    with pytest.raises(ValueError, match=rf"Expected weights in .*{name}, found a Git LFS pointer"):
        exported_file(models, ONNX_FILE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"files": None}, r"Expected files in .*export\.json to be dict, found None; write it with"),
        ({"files": ["model.onnx"]}, r"Expected files in .*export\.json to be dict"),
        ({"weights_sha256": 3}, r"Expected weights_sha256 in .*export\.json to be str"),
        ({"parity": {}}, r"Expected parity in .*export\.json to be list"),
        ({"parity": ["bf16"]}, r"Expected an object in .*export\.json, parity\[0\], found str"),
        ({"parity": [{**ROW, "accepted": "yes"}]}, r"Expected accepted in .*export\.json, parity\[0\] to be bool"),
        ({"parity": [{"engine": "openvino"}]}, r"Expected precision in .*export\.json, parity\[0\], found none"),
        ({"files": {}}, r"Expected model\.onnx as it was exported, found it changed since by export\.json"),
    ],
)
def test_a_field_of_another_type_is_named(models: Path, changes: dict[str, Any], message: str) -> None:
    write(models, **changes)
    with pytest.raises(ValueError, match=message):
        exported_file(models, ONNX_FILE)


def test_a_record_that_is_no_object_is_named(models: Path) -> None:
    write_json(models / RECORD, [])
    with pytest.raises(ValueError, match=r"Expected an object in .*export\.json, found list"):
        is_accepted(models, "openvino", "bf16")

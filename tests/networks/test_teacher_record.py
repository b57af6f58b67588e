"""A teacher's record: every entry of the type it should have, before anything is built from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tskd_monai.networks.teacher_builder import build_teacher
from tskd_monai.networks.teacher_folder import (
    SPEC_TYPES,
    load_teacher,
    read_teacher_record,
    save_teacher,
    spec_from_json,
)

TASK = "a" * 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    teacher = build_teacher(encoder="sam_demo", encoder_weights="random", image_size=(32, 48), num_classes=3, rank=2)
    save_teacher(teacher, folder, task_hash=TASK)
    return folder


@pytest.fixture
def content(folder: Path, tmp_path: Path) -> dict[str, Any]:
    return json.loads((folder / "teacher.json").read_text())


def test_the_spec_comes_back(folder: Path, content: dict[str, Any]) -> None:
    spec = spec_from_json(content["spec"], folder / "teacher.json")
    assert spec == load_teacher(folder).spec
    assert set(SPEC_TYPES) == set(content["spec"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_classes": 10**9}, "Expected num_classes of 2 to 256, found 1000000000"),
        ({"num_classes": 3.0}, "Expected num_classes to be int, found 3.0"),
        ({"num_classes": True}, "Expected num_classes to be int, found True"),
        ({"image_size": [32.5, 48]}, "Expected image_size as two whole numbers"),
        ({"image_size": 32}, "Expected image_size to be list, found 32"),
        ({"image_size": [32, 10**9]}, "multiples of 16 up to 1024"),
        ({"encoder": "sam"}, "Expected an encoder out of"),
        ({"encoder": ["sam_demo"]}, "Expected encoder to be str"),
        ({"target_modules": [3]}, "Expected target_modules to be names of layers"),
        ({"peft_options": {"use_dora": 1}}, "Expected the peft option use_dora"),
        ({"decoder_lora": 0}, "Expected decoder_lora to be bool, found 0"),
        ({"seed": -1}, "Expected a seed from 0"),
        ({"seed": 2**64}, "Expected a seed from 0"),
        ({"weights_sha256": 3}, "Expected weights_sha256 to be str or NoneType, found 3"),
    ],
)
def test_a_spec_that_builds_nothing_is_refused(content: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"The spec in .*teacher\.json builds no teacher: .*{message}") as raised:
        spec_from_json({**content["spec"], **changes}, Path("somewhere/teacher.json"))
    assert type(raised.value) is ValueError


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task_hash": 3}, r"Expected a text as the task_hash in .*teacher\.json, found int"),
        ({"files": []}, r"Expected a JSON object as the files in .*teacher\.json, found list"),
        ({"files": {"decoder.safetensors": 1.5}}, r"Expected a sha256 of each of the files in .*teacher\.json"),
        ({"base_encoder_sha256": None}, "Expected a text as the base_encoder_sha256"),
    ],
)
def test_an_entry_of_another_type_is_refused(
    content: dict[str, Any], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    (tmp_path / "teacher.json").write_text(json.dumps({**content, **changes}))
    with pytest.raises(ValueError, match=message):
        read_teacher_record(tmp_path)


def test_a_record_nested_without_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "teacher.json").write_text('{"spec": ' + "[" * 100_000)
    with pytest.raises(ValueError, match=r"Expected JSON in .*teacher\.json, found a damaged file"):
        read_teacher_record(tmp_path)

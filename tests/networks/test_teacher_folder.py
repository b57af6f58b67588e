"""Teacher folders: saved and loaded; parts that do not belong together are rejected."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.networks.small_teachers import build, every_variant, logits, take_a_step
from tskd_monai.networks.lora import has_lora, merge_lora
from tskd_monai.networks.pretrained import build_encoder
from tskd_monai.networks.teacher import state_sha256, teacher_sha256
from tskd_monai.networks.teacher_folder import (
    PRIVATE_FILE,
    SPEC_FIELDS,
    load_teacher,
    note_weights,
    noted_weights,
    read_teacher_record,
    save_teacher,
    spec_from_json,
)

TASK = "a" * 64


@every_variant
def test_a_trained_teacher_survives_its_folder(tmp_path, options):
    teacher = take_a_step(build(**options))
    save_teacher(teacher, tmp_path, task_hash=TASK, record={"val_mean_dice": 0.5})
    loaded = load_teacher(tmp_path, task_hash=TASK)
    torch.testing.assert_close(logits(loaded), logits(teacher), atol=1e-6, rtol=1e-6)
    assert loaded.spec == teacher.spec
    assert not loaded.training
    assert not any(value.requires_grad for value in loaded.parameters())
    assert read_teacher_record(tmp_path)["record"] == {"val_mean_dice": 0.5}
    assert (tmp_path / "adapter").exists() == (teacher.spec.tuning == "lora")
    assert (tmp_path / "decoder_adapter").exists() == teacher.spec.decoder_lora


@every_variant
def test_a_teacher_to_run_has_its_lora_merged_and_is_known_by_what_was_saved(tmp_path, options):
    teacher = take_a_step(build(**options))
    save_teacher(teacher, tmp_path, task_hash=TASK)
    merged, apart = load_teacher(tmp_path), load_teacher(tmp_path, trainable=True)
    assert not has_lora(merged)
    assert has_lora(apart) == (teacher.spec.tuning == "lora" or teacher.spec.decoder_lora)
    torch.testing.assert_close(logits(merged), logits(apart), atol=1e-6, rtol=1e-6)
    assert teacher_sha256(merged) == teacher_sha256(apart) == state_sha256(teacher)
    assert (state_sha256(merged) == state_sha256(apart)) == (not has_lora(apart))


@every_variant
def test_what_is_trainable_is_the_same_after_loading(tmp_path, options):
    teacher = build(**options)
    save_teacher(teacher, tmp_path, task_hash=TASK)
    loaded = load_teacher(tmp_path, trainable=True)
    trainable = [{name for name, value in at.named_parameters() if value.requires_grad} for at in (teacher, loaded)]
    assert trainable[0] == trainable[1]


def test_a_loaded_teacher_can_be_trained_and_saved_again(tmp_path):
    save_teacher(take_a_step(build()), tmp_path, task_hash=TASK)
    again = take_a_step(load_teacher(tmp_path, trainable=True))
    save_teacher(again, tmp_path, task_hash=TASK)
    assert torch.equal(logits(load_teacher(tmp_path, trainable=True)), logits(again))


def test_weights_that_moved_are_found_by_hash_and_others_refused(tmp_path):
    backbone = build_encoder("sam_demo", "random", 128, seed=9).backbone
    state = {f"vision_encoder.{name}": value for name, value in backbone.state_dict().items()}
    here, there = tmp_path / "here.safetensors", tmp_path / "there.safetensors"
    save_file(state, here)
    teacher = take_a_step(build(weights=here))
    save_teacher(teacher, tmp_path / "teacher", task_hash=TASK)
    here.rename(there)
    with pytest.raises(
        FileNotFoundError, match=r"needs the sam_demo weights .*here\.safetensors.* pass encoder_weights"
    ):
        load_teacher(tmp_path / "teacher")
    torch.testing.assert_close(logits(load_teacher(tmp_path / "teacher", there)), logits(teacher), atol=1e-6, rtol=1e-6)
    state["vision_encoder.pos_embed"] = state["vision_encoder.pos_embed"] + 1
    save_file(state, there)
    with pytest.raises(ValueError, match=r"trained on sam_demo weights with sha256 .*, found .*pass encoder_weights"):
        load_teacher(tmp_path / "teacher", there)


def test_a_record_without_a_depth_is_of_a_teacher_with_lora_in_all_layers(tmp_path):
    teacher = take_a_step(build())
    save_teacher(teacher, tmp_path, task_hash=TASK)
    content = json.loads((tmp_path / "teacher.json").read_text())
    assert content["format_version"] == 1
    assert content["spec"].pop("lora_depth") is None  # which older records lack
    (tmp_path / "teacher.json").write_text(json.dumps(content))
    loaded = load_teacher(tmp_path)
    assert loaded.spec == teacher.spec
    torch.testing.assert_close(logits(loaded), logits(teacher), atol=1e-6, rtol=1e-6)


def test_the_depth_is_recorded(tmp_path):
    save_teacher(build(lora_depth=2), tmp_path, task_hash=TASK)
    assert read_teacher_record(tmp_path)["spec"]["lora_depth"] == 2
    loaded = load_teacher(tmp_path, trainable=True)
    assert (loaded.spec.lora_depth, loaded.frozen_layers) == (2, 4)


def test_a_teacher_of_another_task_is_refused(tmp_path):
    save_teacher(build(), tmp_path, task_hash=TASK)
    with pytest.raises(ValueError, match="was trained for task aaaaaaaaaaaa, this is task bbbbbbbbbbbb"):
        load_teacher(tmp_path, task_hash="b" * 64)


def test_files_of_two_savings_are_refused(tmp_path):
    save_teacher(build(seed=1), tmp_path / "one", task_hash=TASK)
    save_teacher(build(seed=2), tmp_path / "two", task_hash=TASK)
    (tmp_path / "one" / "decoder.safetensors").replace(tmp_path / "two" / "decoder.safetensors")
    with pytest.raises(ValueError, match="the files were not saved together"):
        load_teacher(tmp_path / "two")


def test_a_random_encoder_that_comes_out_differently_is_refused(tmp_path):
    save_teacher(build(seed=1), tmp_path, task_hash=TASK)
    content = json.loads((tmp_path / "teacher.json").read_text())
    content["spec"]["seed"] = 2
    (tmp_path / "teacher.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="differs from the one trained on"):
        load_teacher(tmp_path)


def test_a_folder_without_a_record_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Expected teacher\.json in the teacher folder"):
        load_teacher(tmp_path)


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_a_merged_teacher_cannot_be_saved(tmp_path, part):
    teacher = build("sam", decoder_lora=True)
    merge_lora(getattr(teacher, part))
    with pytest.raises(ValueError, match="found it merged; save before merging"):
        save_teacher(teacher, tmp_path, task_hash=TASK)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda content: content["spec"].update(colour="red"),
            "colour is unknown, 1 entries differ; train the teacher",
        ),
        (lambda content: content["spec"].pop("qkv_parts"), "qkv_parts is missing, 1 entries differ"),
        (lambda content: content.update(spec=[]), r"Expected spec in .*teacher\.json to be dict, found \[\]"),
        (
            lambda content: content["spec"].update(tuning="half"),
            "tuning to be one of lora, full, decoder, found 'half'",
        ),
        (lambda content: content.pop("files"), r"Expected files in .*teacher\.json, found none"),
        (lambda content: content["files"].pop("decoder.safetensors"), "Expected the files adapter/.*decoder.*, found"),
        (lambda content: content.update(format_version=2), r"format_version 1 in .*, found 2; train the teacher again"),
    ],
)
def test_a_record_that_does_not_fit_is_refused(tmp_path, change, message):
    save_teacher(build(), tmp_path, task_hash=TASK)
    content = json.loads((tmp_path / "teacher.json").read_text())
    change(content)
    (tmp_path / "teacher.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        load_teacher(tmp_path)


@pytest.mark.parametrize("text", ['{"format_version": 1, "spe', "", "[]"])
def test_a_damaged_record_is_refused(tmp_path, text):
    (tmp_path / "teacher.json").write_text(text)
    with pytest.raises(ValueError, match=r"Expected (JSON|an object) in .*teacher\.json.*; copy the folder again"):
        load_teacher(tmp_path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    save_teacher(build(), folder, task_hash=TASK)
    return folder


@pytest.fixture
def content(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "teacher.json").read_text())


def test_the_spec_comes_back(folder: Path, content: dict[str, Any]) -> None:
    spec = spec_from_json(content["spec"], folder / "teacher.json")
    assert spec == load_teacher(folder).spec
    assert set(SPEC_FIELDS) == set(content["spec"])


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
        ({"lora_depth": 1.5}, "Expected lora_depth to be int or NoneType, found 1.5"),
        ({"lora_depth": 2, "tuning": "full"}, "lora_depth need tuning 'lora'"),
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
        ({"task_hash": 3}, r"Expected task_hash in .*teacher\.json to be str, found 3"),
        ({"files": []}, r"Expected files in .*teacher\.json to be dict, found \[\]"),
        ({"files": {"decoder.safetensors": 1.5}}, r"Expected a sha256 of each of the files in .*teacher\.json"),
        ({"base_encoder_sha256": None}, "Expected base_encoder_sha256 in .* to be str, found None"),
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
    with pytest.raises(ValueError, match=r"Expected JSON in .*teacher\.json: nested too deeply; copy the folder again"):
        read_teacher_record(tmp_path)


def test_only_a_private_file_has_the_path_of_local_weights(tmp_path: Path) -> None:
    weights = tmp_path / "Doe_Jane" / "sam.pth"
    weights.parent.mkdir()
    weights.touch()
    folder = tmp_path / "teacher"
    folder.mkdir()
    assert note_weights(folder, str(weights)) == "sam.pth"
    assert noted_weights(folder, "sam_vit_base", "sam.pth") == str(weights)
    assert json.loads((folder / PRIVATE_FILE).read_text()) == {"encoder_weights": str(weights)}
    (folder / PRIVATE_FILE).unlink()  # as when shared
    assert noted_weights(folder, "sam_vit_base", "sam.pth") == "sam.pth"


@pytest.mark.parametrize("weights", ["shipped", "random", "facebook/sam-vit-base"])
def test_what_is_no_local_file_stays_as_it_is(tmp_path: Path, weights: str) -> None:
    assert note_weights(tmp_path, weights) == weights
    assert noted_weights(tmp_path, "sam_vit_base", weights) == weights
    assert not (tmp_path / PRIVATE_FILE).exists()


def test_strangers_address_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"published at facebook/sam-vit-base; pass encoder_weights"):
        noted_weights(tmp_path, "sam_vit_base", "somebody/sam-vit-base")


@pytest.mark.parametrize("text", ["{", "[]", '{"encoder_weights": 3}'])
def test_a_damaged_private_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / PRIVATE_FILE).parent.mkdir()
    (tmp_path / PRIVATE_FILE).write_text(text)
    with pytest.raises(ValueError, match=r"encoder_weights\.json.*; remove it and pass encoder_weights"):
        noted_weights(tmp_path, "sam_vit_base", "sam.pth")

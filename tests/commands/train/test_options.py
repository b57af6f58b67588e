"""Invalid options and presets are rejected by name before anything runs."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from tskd_monai.commands.train.checks import check_device, check_room, check_sections, check_student, check_student_name
from tskd_monai.commands.train.options import STAGE_CONFIGS, load_preset, parse_teacher
from tskd_monai.commands.train.stages import PlannedDataset
from tskd_monai.networks.encoder_records import ENCODERS
from tskd_monai.networks.pretrained import build_encoder

GOOD: dict[str, Any] = {
    "image_size": 48,
    "teacher": {"max_epochs": 1, "learning_rate": 1},
    "diffusion": {"patch_size": 2},
    "sampling": {"number": 2},
    "distillation": {"precision": "bfloat16", "num_workers": 0},
    "fine_tuning": {},
}


def preset_file(folder: Path, content: Any) -> str:
    path = folder / "preset.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return str(path)


def test_the_presets_of_the_project_and_a_file_are_read(tmp_path: Path) -> None:
    demo = load_preset("demo")
    assert demo["compare"] is True and set(STAGE_CONFIGS) <= set(demo)
    assert load_preset("small")["compare"] is False and load_preset("full")["labelled_slices"] is None
    own = load_preset(preset_file(tmp_path, {"own": GOOD}))
    assert own == {**GOOD, "labelled_slices": None, "compare": False, "synthesis": None, "scratch": {}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_epoch": 3}, "found unknown max_epoch"),
        (
            {"teacher": {"max_epoch": 3}},
            r"among \[.*'max_epochs'.*\] for teacher in preset.yaml, found max_epoch",
        ),
        ({"teacher": {"max_epochs": "many"}}, "a value like 12 for max_epochs of teacher in preset.yaml, found 'many'"),
        ({"teacher": {"max_epochs": 0}}, "found 0"),
        ({"teacher": {"tensorboard": 1}}, "a value like False for tensorboard"),
        ({"teacher": {"learning_rate": "fast"}}, "a value like 0.001 for learning_rate"),
        ({"teacher": {"datalist": "other.json"}}, "found datalist, which the pipeline sets"),
        ({"scratch": {"max_epochs": 3}}, "found max_epochs, which the pipeline sets"),
        ({"sampling": [1]}, "settings of sampling in preset.yaml, found list"),
        ({"image_size": None}, "a positive int as image_size in preset.yaml, found None"),
        ({"image_size": 100}, "a multiple of 16 as image_size in preset.yaml, found 100"),
        ({"labelled_slices": 0}, "a positive int or null as labelled_slices"),
        ({"compare": "yes"}, "a positive bool as compare"),
        ({"synthesis": "on"}, "a positive bool or null as synthesis"),
    ],
)
def test_a_wrong_key_or_value_is_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        load_preset(preset_file(tmp_path, {"own": {**GOOD, **change}}))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (GOOD, r"a preset under a name in .*, found its keys \['diffusion'.* at the top"),
        ({"a": GOOD, "b": GOOD}, r"one preset in .*, found \['a', 'b'\]"),
        ([1], "one preset in .*, found list"),
        ("", "one preset in .*, found NoneType"),
        ("a: [", "YAML in .*preset.yaml"),
        ({"own": {key: value for key, value in GOOD.items() if key != "diffusion"}}, "found no diffusion"),
        ({"own": None}, "in preset.yaml, found NoneType"),
    ],
)
def test_a_file_that_is_no_preset_is_refused(content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        load_preset(preset_file(tmp_path, content))


def test_a_preset_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--preset with one of demo, demo_teacher, full, small, .* found tiny.$"):
        load_preset("tiny")
    with pytest.raises(ValueError, match=r"found smal; did you mean small\?$"):
        load_preset("smal")
    with pytest.raises(FileNotFoundError, match="none.yaml, found none"):
        load_preset(str(tmp_path / "none.yaml"))


def test_teacher_option_is_a_name_a_file_or_a_hub_id() -> None:
    assert parse_teacher("sam_demo") == ("sam_demo", "shipped")
    assert parse_teacher("vit_tiny_patch16=w.safetensors") == ("vit_tiny_patch16", "w.safetensors")
    assert parse_teacher("facebook/sam-vit-base") == ("sam_vit_base", "facebook/sam-vit-base")
    assert parse_teacher("lite_medsam") == ("lite_medsam", "cached")


def test_teacher_option_is_a_file_or_a_folder_of_a_known_encoder(tmp_path: Path) -> None:
    folder, published = tmp_path / "hub", tmp_path / "sam_hq_vit_b.pth"
    folder.mkdir()
    save_file(build_encoder("vit_tiny_patch16", "random", 224).backbone.state_dict(), folder / "model.safetensors")
    published.touch()
    assert parse_teacher(str(folder)) == ("vit_tiny_patch16", str(folder))
    assert parse_teacher(str(published)) == ("sam_hq_vit_base", str(published))


def test_a_file_of_several_or_no_known_encoders_is_refused(tmp_path: Path) -> None:
    with torch.device("meta"):
        record = ENCODERS["sam2.1_hiera_tiny"]
        names = record.architecture.build(1024, record.mean, record.std).backbone.state_dict()
    state = {f"vision_encoder.{name}": torch.zeros(value.shape, dtype=torch.uint8) for name, value in names.items()}
    save_file(state, tmp_path / "both.safetensors")
    with pytest.raises(
        ValueError, match=r"fits sam2\.1_hiera_tiny, medsam2_hiera_tiny: choose one, as in sam2\.1_hiera"
    ):
        parse_teacher(str(tmp_path / "both.safetensors"))
    save_file({"head": torch.zeros(1)}, tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match=r"known encoder in .*none\.safetensors, found others; `tskd teachers` lists"):
        parse_teacher(str(tmp_path / "none.safetensors"))
    with pytest.raises(FileNotFoundError, match=r"Expected model\.safetensors or .* found none; pass the path"):
        parse_teacher(str(tmp_path.parent))


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ("resnet", "with a name among .*sam_vit_base.*, found resnet.$"),
        ("sam_vit_bas", r"found sam_vit_bas; did you mean sam_vit_base\?$"),
        ("sam_vit_bas=a.pth", r"found sam_vit_bas=a.pth; did you mean sam_vit_base\?$"),
        ("facebook/sam-vit-bas", r"did you mean facebook/sam-vit-base\?$"),
        ("sam_vit_huge", "none; give --teacher sam_vit_huge=FILE, or --teacher facebook/sam-vit-huge to download"),
        ("mri_core_vit_base", "none; give --teacher mri_core_vit_base=FILE. They are published as github.com/"),
        ("owner/another", "found owner/another; of another model's weights, name the architecture, as in sam_vit_"),
        ("owner/another", "of another architecture, see 'Another foundation model' in bundles/teacher_lora/docs/"),
        ("scripts/pretrain_demo_encoder.py", r"scripts/pretrain_demo_encoder\.py"),
    ],
)
def test_a_teacher_that_is_unknown_or_lacks_weights_is_refused(teacher: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_teacher(teacher)


def test_devices_are_those_of_the_machine() -> None:
    check_device(None)
    check_device("cpu")
    for wrong in ("cuda:17", "gpu", "cpu:x"):
        with pytest.raises(ValueError, match=f"--device cpu or one of .* GPUs .*, found {wrong}"):
            check_device(wrong)


@pytest.mark.parametrize("section", ["training", "validation", "test"])
def test_an_empty_section_is_named_with_its_purpose(section: str) -> None:
    datalist = {"training": [1], "validation": [1], "test": [1]}
    check_sections(datalist, Path("datalist.json"))
    with pytest.raises(ValueError, match=f"cases in `{section}` of datalist.json, found none"):
        check_sections({**datalist, section: []}, Path("datalist.json"))


def test_only_scoring_needs_test_cases() -> None:
    check_sections({"training": [1], "validation": [1], "test": []}, Path("datalist.json"), scored=False)
    with pytest.raises(ValueError, match="in `validation`"):
        check_sections({"training": [1], "validation": [], "test": []}, Path("datalist.json"), scored=False)


def test_a_student_that_is_unknown_or_does_not_fit_is_refused(make_task: Any) -> None:
    check_student("compact_unet_small", make_task())
    check_student_name("compact_unet_small")
    with pytest.raises(
        ValueError, match=r"--student with one of .*vit_tiny.*, found vit_tiy; did you mean vit_tiny\?$"
    ):
        check_student_name("vit_tiy")


@pytest.mark.parametrize(
    ("encoder", "slices", "needed"),
    [
        ("sam_demo", 100, "0.5 GB of free disk for 110"),
        ("lite_medsam", 100_000, "3.1 GB of free disk for 100010"),
    ],
)
def test_a_disk_with_too_little_room_is_refused(
    make_task: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder: str, slices: int, needed: str
) -> None:
    dataset = PlannedDataset(tmp_path / "datalist.json", tmp_path / "task.json", make_task(), {}, slices)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10**9, 6 * 10**8, 4 * 10**8))
    with pytest.raises(ValueError, match=rf"about {needed} images, found 0.4 GB"):
        check_room(tmp_path / "run", dataset, encoder, 10)

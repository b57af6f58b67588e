"""Any teacher of a task from its folder, and a published encoder as a task-agnostic teacher."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

from tests.support.paths import ROOT
from tskd_monai.bundle.student import write_student_bundle
from tskd_monai.data.task import Task
from tskd_monai.distillation.target_cache import TargetCache
from tskd_monai.distillation.teacher_targets import TeacherTargets
from tskd_monai.distillation.teachers import load_any_teacher, task_agnostic_teacher
from tskd_monai.networks.pretrained import build_encoder
from tskd_monai.networks.teacher import SegmentationNetworkTeacher, VfmSegmenter
from tskd_monai.networks.teacher_builder import build_teacher
from tskd_monai.networks.teacher_folder import save_teacher

MakeTask = Callable[..., Task]
TEMPLATE = ROOT / "bundles" / "segmentation"
IMAGES = torch.rand(2, 1, 32, 48, generator=torch.Generator().manual_seed(0))


def student_network(bundle: Path) -> torch.nn.Module:
    """Return the network of a student bundle, as its own config builds it."""
    parser = ConfigParser()
    parser.read_config(bundle / "configs" / "inference.json")
    parser["bundle_root"] = str(bundle)
    return parser.get_parsed_content("network_def").eval()


@pytest.fixture(scope="module")
def vfm(tmp_path_factory: pytest.TempPathFactory, make_task: MakeTask) -> tuple[Path, VfmSegmenter]:
    """Return a foundation model's folder and the teacher that was saved there."""
    folder = tmp_path_factory.mktemp("teacher")
    teacher = build_teacher(
        encoder="sam_demo",
        encoder_weights="random",
        image_size=(32, 48),
        num_classes=3,
        decoder="light",
        rank=2,
        seed=3,
    )
    save_teacher(teacher, folder, task_hash=make_task().hash)
    return folder, teacher.eval()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, make_task: MakeTask) -> Path:
    """Return a student bundle of random weights."""
    folder, task = tmp_path_factory.mktemp("bundles") / "control", make_task()
    write_student_bundle(TEMPLATE, folder, task, "compact_unet_small", {})
    torch.manual_seed(0)
    weights = {name: torch.randn_like(value) for name, value in student_network(folder).state_dict().items()}
    write_student_bundle(TEMPLATE, folder, task, "compact_unet_small", weights)
    return folder


@pytest.mark.parametrize("kind", ["vfm", "bundle"])
def test_a_teacher_is_frozen_and_gives_logits_and_features(
    vfm: tuple[Path, VfmSegmenter], bundle: Path, make_task: MakeTask, kind: str
) -> None:
    folder = vfm[0] if kind == "vfm" else bundle
    teacher = load_any_teacher(folder, make_task())
    assert not teacher.training and not any(value.requires_grad for value in teacher.parameters())
    logits, features = teacher.forward_with_embeddings(IMAGES)
    assert logits.shape == (2, 3, 32, 48)
    assert features.shape[:2] == (2, teacher.embed_dim)
    torch.testing.assert_close(teacher(IMAGES), logits)
    _, targets = TeacherTargets(teacher)({"image": IMAGES})
    torch.testing.assert_close(targets["features"], features)


def test_a_foundation_model_comes_back_as_it_was_saved(vfm: tuple[Path, VfmSegmenter], make_task: MakeTask) -> None:
    folder, saved = vfm
    teacher = load_any_teacher(folder, make_task())
    assert isinstance(teacher, VfmSegmenter)
    with torch.no_grad():
        torch.testing.assert_close(teacher(IMAGES), saved(IMAGES))


def test_targets_cached_before_merging_are_still_valid(
    tmp_path: Path, vfm: tuple[Path, VfmSegmenter], make_task: MakeTask
) -> None:
    folder, saved = vfm
    names = [
        TargetCache(tmp_path, teacher, make_task()).path(IMAGES[0]).name
        for teacher in (saved, load_any_teacher(folder, make_task()))
    ]
    assert names[0] == names[1]


def test_a_student_bundle_teaches_what_it_predicts(bundle: Path, make_task: MakeTask) -> None:
    network = student_network(bundle)
    network.load_state_dict(torch.load(bundle / "models" / "model.pt", weights_only=True))
    teacher = load_any_teacher(bundle, make_task())
    assert isinstance(teacher, SegmentationNetworkTeacher)
    with torch.no_grad():
        assert torch.equal(teacher(IMAGES), network(IMAGES))
    assert teacher.forward_with_embeddings(IMAGES)[1].shape == (2, 128, 4, 6)


def test_a_teacher_of_another_task_is_refused(
    vfm: tuple[Path, VfmSegmenter], bundle: Path, make_task: MakeTask
) -> None:
    other = make_task(pixdim=(2.0, 2.0))
    with pytest.raises(
        ValueError, match=rf"was trained for task {make_task().hash[:12]}, this is task {other.hash[:12]}"
    ):
        load_any_teacher(vfm[0], other)
    with pytest.raises(ValueError, match=rf"student bundle control was made for another task: .*{other.hash[:12]}"):
        load_any_teacher(bundle, other)


def test_a_missing_folder_is_named(tmp_path: Path, make_task: MakeTask) -> None:
    expected = r"Expected the teacher's folder at --teacher_dir .*nowhere, found none; train one with teacher_lora"
    with pytest.raises(FileNotFoundError, match=expected):
        load_any_teacher(tmp_path / "nowhere", make_task())


def test_a_folder_without_a_teacher_is_refused(tmp_path: Path, make_task: MakeTask) -> None:
    with pytest.raises(FileNotFoundError, match=r"Expected teacher\.json in the teacher folder"):
        load_any_teacher(tmp_path, make_task())


@pytest.mark.parametrize("config", [[], {}, {"student": 3}, "compact_unet_small"])
def test_a_student_without_a_name_is_refused_by_file(
    bundle: Path, tmp_path: Path, make_task: MakeTask, config: object
) -> None:
    shutil.copytree(bundle, tmp_path / "control")
    (tmp_path / "control" / "configs" / "inference.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"inference\.json.*; distil the student again"):
        load_any_teacher(tmp_path / "control", make_task())


def test_a_student_with_the_weights_of_another_network_is_refused_by_name(
    bundle: Path, tmp_path: Path, make_task: MakeTask
) -> None:
    shutil.copytree(bundle, tmp_path / "control")
    torch.save({"weight": torch.rand(2)}, tmp_path / "control" / "models" / "model.pt")
    with pytest.raises(ValueError, match="Weights in the student bundle control do not fit"):
        load_any_teacher(tmp_path / "control", make_task())


def test_embeddings_are_the_published_encoders_and_there_are_no_logits() -> None:
    teacher, images = task_agnostic_teacher("sam_demo", None, (48, 64)), torch.rand(2, 1, 48, 64)
    logits, embeddings = teacher.forward_with_embeddings(images)
    expected = build_encoder("sam_demo", None, (48, 64)).eval()(images).image_embeddings
    assert logits is None
    torch.testing.assert_close(embeddings, expected, rtol=1e-4, atol=1e-4)  # without gradients other kernels run
    assert embeddings.shape == (2, teacher.encoder.embed_dim, 3, 4)
    assert not embeddings.requires_grad and not teacher.training


def test_an_unknown_encoder_is_refused() -> None:
    with pytest.raises(ValueError, match="Expected an encoder out of .*, found 'vit_giant'"):
        task_agnostic_teacher("vit_giant", None, 48)

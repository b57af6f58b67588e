from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tskd_monai.data.task import Intensity, Label, Task
from tskd_monai.distillation.dry_run import noise_with_targets, survey_transfer_images, target_bytes
from tskd_monai.distillation.target_cache import TargetCache, load_or_compute_targets
from tskd_monai.distillation.target_images import TargetImage, TargetImages
from tskd_monai.distillation.target_sources import TeacherSource
from tskd_monai.distillation.targets_folder import StoredTargets
from tskd_monai.distillation.targets_stage import write_targets
from tskd_monai.distillation.teacher_targets import CachedTargets, TeacherTargets
from tskd_monai.files.json_files import write_json
from tskd_monai.networks.students import build_student, student_size
from tskd_monai.networks.teacher import SegmentationNetworkTeacher
from tskd_monai.training.case_survey import CaseSurvey
from tskd_monai.transforms.pipelines import augmentation

TASK = Task(
    name="tiny",
    labels=(Label(0, "background"), Label(1, "liver"), Label(4, "spleen")),
    channels=1,
    image_size=(32, 32),
    pixdim=(1.0, 1.0),
    axcodes="PLS",
    intensity=Intensity("percentile", 1.0, 99.0),
)
MOVED = ["image", "coordinates"]


@pytest.fixture(scope="module")
def teacher() -> SegmentationNetworkTeacher:
    torch.manual_seed(0)
    size = student_size("compact_unet_small")
    network = build_student("compact_unet_small", 1, TASK.num_classes, TASK.image_size)
    return SegmentationNetworkTeacher(network, size.feature_layer, size.feature_channels)


def survey(slices: int) -> CaseSurvey:
    """Returns a section of the given number of slices."""
    nothing = np.zeros(TASK.num_classes, dtype=np.int64)
    return CaseSurvey(1, slices, 0, None, nothing, nothing, ())


def test_a_batch_serves_training_with_and_without_cached_targets(teacher: SegmentationNetworkTeacher) -> None:
    batch = noise_with_targets(TASK, 2, augmentation(MOVED), teacher, "cpu")
    images, cached = CachedTargets()(batch, device="cpu")
    _, online = TeacherTargets(teacher)(batch, device="cpu")
    assert images.shape == (2, 1, 32, 32)
    assert {name: value.shape for name, value in cached.items()} == {name: v.shape for name, v in online.items()}


def test_a_targets_folder_serves_a_trial_step(teacher: SegmentationNetworkTeacher, tmp_path: Path) -> None:
    images = TargetImages([TargetImage(torch.rand(1, 32, 32))], [], None)
    write_targets(images, [TeacherSource(teacher)], TASK, tmp_path)
    batch = noise_with_targets(TASK, 3, augmentation(MOVED), StoredTargets(tmp_path, TASK), "cpu")
    _, targets = CachedTargets()(batch, device="cpu")
    assert targets["logits"].shape == (3, TASK.num_classes, 32, 32)
    assert targets["features"].shape[:2] == (3, teacher.embed_dim)


def test_targets_take_what_the_cache_holds(teacher: SegmentationNetworkTeacher, tmp_path: Path) -> None:
    batch = noise_with_targets(TASK, 2, augmentation(MOVED), teacher, "cpu")
    images = [torch.rand(1, 32, 32), torch.rand(1, 32, 32)]
    targets = load_or_compute_targets(teacher, images, TargetCache(tmp_path, teacher, TASK))
    held = sum(part.nbytes for target in targets for part in target)
    assert target_bytes(batch, {"training": survey(1), "synthetic": survey(1)}) == held
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 1.2 * held


def test_without_a_teacher_there_are_no_targets() -> None:
    batch = noise_with_targets(TASK, 2, augmentation(["image"]), None, "cpu")
    assert target_bytes(batch, {"training": survey(9)}) == 0


def test_a_missing_transfer_set_is_named(tmp_path: Path) -> None:
    volume = {"image": np.zeros((1, 32, 32, 2), dtype=np.float32)}
    (tmp_path / "image.nii.gz").write_bytes(b"")
    write_json(tmp_path / "datalist.json", {"training": [], "unlabeled": [{"image": "image.nii.gz", "case": "a"}]})
    found = survey_transfer_images(tmp_path / "datalist.json", TASK, lambda entry: volume)
    assert list(found) == ["training"] and found["training"].slices == 2
    with pytest.raises(FileNotFoundError, match="transfer_set"):
        survey_transfer_images(tmp_path / "datalist.json", TASK, lambda entry: volume, tmp_path / "none")

"""Cached targets agree with the predictions of a teacher that is run on the augmented image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader
from monai.engines import PrepareBatch, SupervisedTrainer
from monai.inferers import SimpleInferer
from monai.transforms import Compose, RandAffined
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from tskd_monai.data.task import Task
from tskd_monai.distillation.target_cache import QuantisedTarget, TargetCache, load_or_compute_targets
from tskd_monai.distillation.teacher_targets import CachedTargets, TeacherTargets, frozen, teacher_targets
from tskd_monai.distillation.transfer_dataset import CachedTargetDataset
from tskd_monai.losses.task_specific_distillation import TaskSpecificDistillationLoss
from tskd_monai.networks.features import FeatureProjection
from tskd_monai.networks.teacher import state_sha256
from tskd_monai.transforms.coordinates import AddCoordinatesd, homogeneous_coordinates
from tskd_monai.transforms.pipelines import augmentation

MakeTask = Callable[..., Task]
CLASSES, SIZE, GRID = 3, 32, 8
FOREGROUND = torch.tensor([0.3, 0.7])


class PixelTeacher(nn.Module):
    """Looks at single pixels, so its prediction moves with the image; predicts background where that is 0."""

    embed_dim = 2

    def __init__(self, classes: bool = True) -> None:
        super().__init__()
        self.sharpness, self.classes = nn.Parameter(torch.tensor(4.0)), classes
        self.seen = 0

    def forward_with_embeddings(self, images: Tensor) -> tuple[Tensor | None, Tensor]:
        self.seen += len(images)
        grey = images.mean(dim=1, keepdim=True)
        logits = torch.cat([1.5 - 4 * grey, grey, 2 * grey**2], dim=1) * self.sharpness
        features = F.adaptive_avg_pool2d(torch.cat([grey, 1 - grey**2], dim=1), GRID)
        return (logits if self.classes else None), features


class Slices(Dataset[dict[str, Any]]):
    """Images without an augmentation, as a transfer dataset gives them."""

    def __init__(self, images: Sequence[Tensor]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self.images[index], "slice": index}


@pytest.fixture
def images() -> list[Tensor]:
    """Return smooth images (1, H, W) in [0, 1]: their targets can be interpolated."""
    noise = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return list(F.interpolate(noise, (SIZE, SIZE), mode="bicubic", align_corners=True).clamp(0, 1))


@pytest.fixture
def teacher() -> PixelTeacher:
    return frozen(PixelTeacher())


def with_targets(
    folder: Path, teacher: PixelTeacher, task: Task, images: list[Tensor], transform: Compose
) -> CachedTargetDataset:
    targets = load_or_compute_targets(teacher, images, TargetCache(folder, teacher, task))
    return CachedTargetDataset(Slices(images), targets, transform)  # type: ignore[arg-type]


def batch_of(dataset: CachedTargetDataset, seed: int = 0) -> dict[str, Tensor]:
    loader = DataLoader(dataset, batch_size=len(dataset))
    dataset.set_random_state(seed)  # MONAI's loader seeds it as well
    return next(iter(loader))


def still() -> Compose:
    return Compose([AddCoordinatesd()])


def rotation() -> Compose:
    keys = ("image", "coordinates")
    move = RandAffined(keys, prob=1.0, rotate_range=0.4, scale_range=(0.1, 0.1), mode="bilinear", padding_mode="zeros")
    return Compose([AddCoordinatesd(), move])


def test_without_augmentation_they_are_the_same(
    tmp_path: Path, teacher: PixelTeacher, images: list[Tensor], make_task: MakeTask
) -> None:
    batch = batch_of(with_targets(tmp_path, teacher, make_task(), images, still()))
    online_images, online = TeacherTargets(teacher)(batch, device="cpu")
    cached_images, cached = CachedTargets()(batch, device="cpu")
    assert torch.equal(online_images, cached_images)
    assert {name: value.shape for name, value in cached.items()} == {
        "logits": (6, CLASSES, SIZE, SIZE),
        "features": (6, 2, GRID, GRID),
    }
    found, expected = (targets["logits"].softmax(1) for targets in (cached, online))
    torch.testing.assert_close(found[:, 1:], expected[:, 1:], rtol=0, atol=0.005)
    torch.testing.assert_close(found[:, 0], expected[:, 0], rtol=0, atol=0.006)  # includes the error of two classes
    torch.testing.assert_close(cached["features"], online["features"], rtol=2**-10, atol=1e-5)
    assert not cached["logits"].requires_grad and cached["logits"].dtype == torch.float32


@pytest.mark.parametrize("seed", range(3))
def test_through_rotation_and_scaling_they_agree(
    tmp_path: Path, teacher: PixelTeacher, images: list[Tensor], make_task: MakeTask, seed: int
) -> None:
    batch = batch_of(with_targets(tmp_path, teacher, make_task(), images, rotation()), seed)
    _, online = TeacherTargets(teacher)(batch)
    _, cached = CachedTargets()(batch)
    _, unmoved = TeacherTargets(teacher)({"image": torch.stack(images)})
    weight = torch.as_tensor(batch["coordinates"])[:, 2:]
    inside = (weight > 0.999).expand(-1, CLASSES, -1, -1)
    difference = (cached["logits"].softmax(1) - online["logits"].softmax(1)).abs()[inside]
    without = (unmoved["logits"].softmax(1) - online["logits"].softmax(1)).abs()[inside]
    assert difference.max() < 0.06 and difference.mean() < 0.1 * without.mean()
    coarse = (F.adaptive_avg_pool2d(weight, GRID) > 0.999).expand(-1, 2, -1, -1)
    difference = (cached["features"] - online["features"]).abs()[coarse]
    without = (unmoved["features"] - online["features"]).abs()[coarse]
    assert difference.max() < 0.15 and difference.mean() < 0.25 * without.mean()


def test_where_the_image_does_not_reach_is_background(
    tmp_path: Path, teacher: PixelTeacher, images: list[Tensor], make_task: MakeTask
) -> None:
    move = RandAffined(("image", "coordinates"), prob=1.0, translate_range=[(9, 9), (0, 0)], padding_mode="zeros")
    batch = batch_of(with_targets(tmp_path, teacher, make_task(), images, Compose([AddCoordinatesd(), move])))
    _, cached = CachedTargets()(batch)
    outside = torch.as_tensor(batch["coordinates"])[:, 2] < 0.001
    assert outside.float().mean() > 0.2
    assert bool((cached["logits"].softmax(1)[:, 0][outside] > 0.999).all())
    assert cached["features"].abs().amin() > 0  # border values, not zeros


def test_classes_are_probabilities_whatever_was_rounded() -> None:
    foreground = (255 * FOREGROUND.sqrt()).ceil().to(torch.uint8)[None, :, None, None].expand(1, 2, 8, 8)
    assert ((foreground.float() / 255) ** 2).sum(dim=1).max() > 1
    batch = {
        "image": torch.rand(1, 1, 8, 8),
        "coordinates": homogeneous_coordinates(8, 8)[None],
        "foreground": foreground,
        "features": torch.zeros(1, 2, 2, 2, dtype=torch.float16),
    }
    logits = CachedTargets()(batch)[1]["logits"]
    assert bool(torch.isfinite(logits).all())
    found = logits.softmax(1)[0, :, 4, 4]
    torch.testing.assert_close(found, torch.tensor([0.0, 0.3, 0.7]), rtol=0, atol=0.005)


def test_a_teacher_without_classes_gives_only_features(
    tmp_path: Path, images: list[Tensor], make_task: MakeTask
) -> None:
    teacher = frozen(PixelTeacher(classes=False))
    batch = batch_of(with_targets(tmp_path, teacher, make_task(), images, still()))
    for prepare in (TeacherTargets(teacher), CachedTargets()):
        _, targets = prepare(batch)
        assert set(targets) == {"features"} and targets["features"].shape == (6, 2, GRID, GRID)


def losses(prepare: PrepareBatch, dataset: CachedTargetDataset) -> list[float]:
    """Returns the loss of each step of a stock training run on the dataset in order."""
    torch.manual_seed(0)  # of the student, and of the loader, which seeds the dataset
    student = FeatureProjection(nn.Sequential(nn.Conv2d(1, 8, 4, stride=4), nn.ConvTranspose2d(8, 3, 4, 4)), "0", 8, 2)
    found: list[float] = []
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=4,
        train_data_loader=DataLoader(dataset, batch_size=3),
        network=student,
        optimizer=torch.optim.Adam(student.parameters(), lr=1e-2),
        loss_function=TaskSpecificDistillationLoss(),
        inferer=SimpleInferer(),
        prepare_batch=prepare,
        decollate=False,
    )
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: found.append(engine.state.output["loss"].item())
    )
    trainer.run()
    return found


def test_a_student_learns_the_same_and_the_teacher_runs_once(
    tmp_path: Path, teacher: PixelTeacher, images: list[Tensor], make_task: MakeTask
) -> None:
    before = state_sha256(teacher)
    dataset = with_targets(tmp_path, teacher, make_task(), images, augmentation(("image", "coordinates"), strength=0.0))
    online = losses(TeacherTargets(teacher), dataset)
    seen = teacher.seen
    cached = losses(CachedTargets(), dataset)
    assert teacher.seen == seen == 6 + 4 * 6
    assert cached == pytest.approx(online, rel=0.01)
    assert cached[-1] < 0.95 * cached[0]
    assert state_sha256(teacher) == before


def test_a_folder_decides_between_the_two(teacher: PixelTeacher, tmp_path: Path) -> None:
    assert isinstance(teacher_targets(teacher, None), TeacherTargets)
    assert isinstance(teacher_targets(teacher, tmp_path), CachedTargets)


def test_a_batch_without_targets_is_refused() -> None:
    with pytest.raises(KeyError, match="coordinates"):
        CachedTargets()({"image": torch.rand(1, 1, 8, 8)})


def test_what_is_no_network_is_no_teacher() -> None:
    with pytest.raises(TypeError, match="Expected a network as the teacher, found str"):
        TeacherTargets("teacher")  # type: ignore[arg-type]


def test_an_item_has_the_augmented_image_and_the_target_of_the_original(images: list[Tensor]) -> None:
    targets = [
        QuantisedTarget(torch.full((2, SIZE, SIZE), index, dtype=torch.uint8), torch.full((2, 4, 4), index).half())
        for index in range(6)
    ]
    dataset = CachedTargetDataset(Slices(images), targets, augmentation(("image", "coordinates")))  # type: ignore[arg-type]
    assert len(dataset) == 6
    item = dataset.set_random_state(1)[4]
    assert set(item) == {"image", "coordinates", "slice", "foreground", "features"} and item["slice"] == 4
    assert item["foreground"] is targets[4].foreground and item["features"] is targets[4].features
    assert not torch.equal(torch.as_tensor(item["image"]), images[4])
    again = dataset.set_random_state(1)[4]
    for key in ("image", "coordinates"):
        assert torch.equal(torch.as_tensor(item[key]), torch.as_tensor(again[key]))
    assert not torch.equal(torch.as_tensor(item["image"]), torch.as_tensor(dataset.set_random_state(2)[4]["image"]))

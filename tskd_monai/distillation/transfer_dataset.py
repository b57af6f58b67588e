"""Training images of the student, real and synthetic, without labels; with cached teacher targets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose, Randomizable
from torch.utils.data import ConcatDataset, Dataset

from tskd_monai.data.datalist import transfer_images
from tskd_monai.data.slices import PreparedImageDataset, SliceDataset
from tskd_monai.data.task import Task
from tskd_monai.data.transfer_set import load_used_images
from tskd_monai.distillation.target_cache import QuantisedTarget, TargetCache, load_or_compute_targets
from tskd_monai.distillation.targets_folder import StoredTargets
from tskd_monai.distillation.teacher_targets import frozen, takes_neighbours
from tskd_monai.networks.teacher import TeacherNetwork


class TransferDataset(ConcatDataset[dict[str, Any]], Randomizable):
    """Concatenation of the slice datasets of a transfer set, seeded together.

    Args:
        datasets: datasets of items with `image` (C, H, W), a slice and its neighbours.
    """

    datasets: list[SliceDataset]  # type: ignore[assignment]  # narrower than torch's

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> TransferDataset:
        """Seeds every dataset."""
        for dataset in self.datasets:
            dataset.set_random_state(seed, state)
        return self

    def randomize(self, data: Any = None) -> None:
        """Draws nothing; the datasets' transforms do."""

    def seen_by(self, teacher: TeacherNetwork | StoredTargets) -> list[torch.Tensor]:
        """Returns the images that a teacher predicts: slices (C, H, W), with their neighbours if it takes them."""
        if takes_neighbours(teacher):
            return [torch.as_tensor(self[index]["image"]) for index in range(len(self))]
        return [image for dataset in self.datasets for image in dataset.arrays("image")]


def transfer_dataset(
    datalist: str | Path,
    task: Task,
    preprocessing: Compose,
    augmentation: Compose | None,
    transfer_set: str | Path | None = None,
    fold: int | None = None,
) -> TransferDataset:
    """Returns every slice of the training and unlabelled images, and the synthetic images; labels are not read.

    Args:
        datalist: path of the dataset's `datalist.json`.
        task: task; a transfer set of another task is refused.
        preprocessing: transform of a volume's `image`.
        augmentation: transform of a slice's `image`; None: no augmentation.
        transfer_set: folder with `transfer_set.json`; None: only real images.
        fold: fold of the datalist.
    """
    entries, neighbours = transfer_images(datalist, fold), task.neighbours
    real = SliceDataset(entries, preprocessing, augmentation, keys=("image",), neighbours=neighbours)
    synthetic = load_used_images(transfer_set, task.hash)
    return TransferDataset([real, PreparedImageDataset(synthetic, augmentation, neighbours)])


class CachedTargetDataset(Dataset[dict[str, Any]], Randomizable):
    """Images of the transfer set with cached teacher targets, and the coordinates by which the targets are warped.

    Args:
        images: dataset of items with `image` (C, H, W), not augmented.
        targets: targets of the teacher, one for each image.
        augmentation: transform of `image` that adds `coordinates` (3, H, W) and warps them with the image.
    """

    def __init__(self, images: TransferDataset, targets: Sequence[QuantisedTarget], augmentation: Compose) -> None:
        self.images, self.targets, self.augmentation = images, targets, augmentation

    def set_random_state(self, seed: int | None = None, state: Any = None) -> CachedTargetDataset:
        """Seeds the augmentation."""
        self.augmentation.set_random_state(seed, state)
        return self

    def randomize(self, data: Any = None) -> None:
        """Draws nothing; the augmentation does."""

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        target = self.targets[index]
        return {**self.augmentation(self.images[index]), "foreground": target.foreground, "features": target.features}


def distillation_dataset(
    datalist: str | Path,
    task: Task,
    preprocessing: Compose,
    augmentation: Compose,
    teacher: TeacherNetwork | StoredTargets | None,
    cache_dir: str | Path | None,
    transfer_set: str | Path | None = None,
    fold: int | None = None,
    device: torch.device | str = "cpu",
) -> TransferDataset | CachedTargetDataset:
    """Returns the transfer dataset, with teacher targets if they are cached.

    Args:
        datalist: path of the dataset's `datalist.json`.
        task: task; a transfer set of another task is refused.
        preprocessing: transform of a volume's `image`.
        augmentation: transform of a slice's `image` and `coordinates`.
        teacher: teacher on `device`, which computes the targets that the cache lacks, or a targets folder, which has
            all of them; None: no cache.
        cache_dir: folder of the teacher's cache; None: no cache, the teacher runs in every step.
        transfer_set: folder with `transfer_set.json`; None: only real images.
        fold: fold of the datalist.
        device: device of the teacher.
    """
    if teacher is None or (cache_dir is None and not isinstance(teacher, StoredTargets)):
        return transfer_dataset(datalist, task, preprocessing, augmentation, transfer_set, fold)
    images = transfer_dataset(datalist, task, preprocessing, None, transfer_set, fold)
    tensors = images.seen_by(teacher)
    if isinstance(teacher, StoredTargets):
        return CachedTargetDataset(images, teacher.read(tensors), augmentation)
    teacher = frozen(teacher)
    targets = load_or_compute_targets(teacher, tensors, TargetCache(str(cache_dir), teacher, task), device)
    return CachedTargetDataset(images, targets, augmentation)

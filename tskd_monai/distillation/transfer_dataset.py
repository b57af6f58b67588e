"""The images that the student learns on: real ones without labels, and synthetic ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from monai.transforms import Compose, Randomizable
from torch.utils.data import Dataset

from tskd_monai.data.datalist import transfer_images
from tskd_monai.data.slices import JoinedDataset, PreparedImageDataset, SliceDataset
from tskd_monai.data.task import Task
from tskd_monai.data.transfer_set import load_transfer_set
from tskd_monai.distillation.target_cache import CachedAnswer, TargetCache, cached_answers
from tskd_monai.distillation.teacher_targets import frozen
from tskd_monai.networks.teacher import TeacherNetwork


def transfer_dataset(
    datalist: str | Path,
    task: Task,
    preprocessing: Compose,
    augmentation: Compose | None,
    transfer_set: str | Path | None = None,
    fold: int | None = None,
) -> JoinedDataset:
    """Returns every slice of the training and unlabelled images, and the synthetic images; labels are not read.

    Args:
        datalist: of the study.
        task: of the study; a transfer set of another is refused.
        preprocessing: of a volume's `image`.
        augmentation: of a slice's `image`; None: the slices as they are.
        transfer_set: folder with `transfer_set.json`; None: real images alone.
        fold: of the datalist.
    """
    real = SliceDataset(transfer_images(datalist, fold), preprocessing, augmentation, keys=("image",))
    entries = [] if transfer_set is None else load_transfer_set(transfer_set, task.hash)
    return JoinedDataset([real, PreparedImageDataset(entries, augmentation)])


class AnsweredDataset(Dataset[dict[str, Any]], Randomizable):
    """Images of the transfer set with the teacher's cached answers, and the coordinates that tie the two together.

    Args:
        images: items with `image` (C, H, W), not augmented.
        answers: of the teacher, one for each.
        augmentation: of `image`; it adds `coordinates` (3, H, W) and moves them along.
    """

    def __init__(self, images: JoinedDataset, answers: Sequence[CachedAnswer], augmentation: Compose) -> None:
        self.images, self.answers, self.augmentation = images, answers, augmentation

    def set_random_state(self, seed: int | None = None, state: Any = None) -> AnsweredDataset:
        """Seeds the augmentation."""
        self.augmentation.set_random_state(seed, state)
        return self

    def randomize(self, data: Any = None) -> None:
        """Draws nothing: the augmentation does."""

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        answer = self.answers[index]
        return {**self.augmentation(self.images[index]), "foreground": answer.foreground, "features": answer.features}


def distillation_dataset(
    datalist: str | Path,
    task: Task,
    preprocessing: Compose,
    augmentation: Compose,
    teacher: TeacherNetwork | None,
    cache_dir: str | Path | None,
    transfer_set: str | Path | None = None,
    fold: int | None = None,
    device: torch.device | str = "cpu",
) -> JoinedDataset | AnsweredDataset:
    """Returns the transfer dataset, with the teacher's answers where they are cached.

    Args:
        datalist: of the study.
        task: of the study.
        preprocessing: of a volume's `image`.
        augmentation: of a slice's `image` and `coordinates`.
        teacher: on `device`; asked for what the cache lacks; None where there is no cache.
        cache_dir: of the cache; None: none, the teacher is asked in every step.
        transfer_set: folder with `transfer_set.json`; None: real images alone.
        fold: of the datalist.
        device: of the teacher.
    """
    if cache_dir is None or teacher is None:
        return transfer_dataset(datalist, task, preprocessing, augmentation, transfer_set, fold)
    images = transfer_dataset(datalist, task, preprocessing, None, transfer_set, fold)
    tensors = [torch.as_tensor(images[index]["image"]) for index in range(len(images))]
    teacher = frozen(teacher)
    answers = cached_answers(teacher, tensors, TargetCache(cache_dir, teacher, task), device)
    return AnsweredDataset(images, answers, augmentation)

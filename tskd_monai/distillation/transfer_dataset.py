"""Training images of the student, real and synthetic, without labels; with cached teacher targets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose, Randomizable
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset

from tskd_monai.data.datalist import load_section, transfer_images
from tskd_monai.data.slices import PreparedImageDataset, SliceDataset
from tskd_monai.data.task import Task
from tskd_monai.data.transfer_set import load_used_images
from tskd_monai.distillation.target_cache import LEVELS, QuantisedTarget, TargetCache, load_or_compute_targets
from tskd_monai.distillation.targets_folder import StoredTargets
from tskd_monai.distillation.teacher_targets import frozen
from tskd_monai.networks.teacher import TeacherNetwork
from tskd_monai.training.samplers import SliceSampler
from tskd_monai.transforms.intensity import remap_organs
from tskd_monai.transforms.pipelines import training_preprocessing

HALF = 180  # LEVELS times the square root of 1/2
SMALLEST_AREA = 16


class TransferDataset(ConcatDataset[dict[str, Any]], Randomizable):
    """Concatenation of the slice datasets of a transfer set, seeded together.

    Args:
        datasets: datasets of items with `image` (C, H, W).
    """

    datasets: list[SliceDataset]  # type: ignore[assignment]  # narrower than torch's

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> TransferDataset:
        """Seeds every dataset."""
        for dataset in self.datasets:
            dataset.set_random_state(seed, state)
        return self

    def randomize(self, data: Any = None) -> None:
        """Draws nothing; the datasets' transforms do."""


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
    real = SliceDataset(transfer_images(datalist, fold), preprocessing, augmentation, keys=("image",))
    synthetic = load_used_images(transfer_set, task.hash)
    return TransferDataset([real, PreparedImageDataset(synthetic, augmentation)])


class CachedTargetDataset(Dataset[dict[str, Any]], Randomizable):
    """Images of the transfer set with cached teacher targets, and the coordinates by which the targets are warped.

    Args:
        images: dataset of items with `image` (C, H, W), not augmented.
        targets: targets of the teacher, one for each image.
        augmentation: transform of `image` that adds `coordinates` (3, H, W) and warps them with the image.
        organs: probability that the brightness of each organ is changed at random, see `remap_organs`.
        labelled: indices of the images whose target is their label.
    """

    def __init__(
        self,
        images: TransferDataset,
        targets: Sequence[QuantisedTarget],
        augmentation: Compose,
        organs: float = 0.0,
        labelled: Sequence[int] = (),
    ) -> None:
        self.images, self.targets, self.augmentation = images, targets, augmentation
        self.organs, self.labelled = organs, labelled

    def set_random_state(self, seed: int | None = None, state: Any = None) -> CachedTargetDataset:
        """Seeds the augmentation."""
        super().set_random_state(seed, state)
        self.augmentation.set_random_state(seed, state)
        return self

    def classes_present(self) -> list[set[int]]:
        """Returns the foreground classes of each target, on at least `SMALLEST_AREA` pixels."""
        counts = [(target.foreground > HALF).flatten(1).sum(dim=1).tolist() for target in self.targets]
        return [{label for label, count in enumerate(of, 1) if count >= SMALLEST_AREA} for of in counts]

    def randomize(self, data: Any = None) -> None:
        """Draws nothing; the augmentation does."""

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        target, item = self.targets[index], self.images[index]
        if self.organs and self.R.rand() < self.organs:
            item = {**item, "image": remap_organs(item["image"], (target.foreground.float() / LEVELS) ** 2, self.R)}
        return {**self.augmentation(item), "foreground": target.foreground, "features": target.features}


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
    organs: float = 0.0,
    labels: bool = False,
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
        organs: see `CachedTargetDataset`.
        labels: whether the target of a labelled slice is its label.
    """
    if teacher is None or (cache_dir is None and not isinstance(teacher, StoredTargets)):
        return transfer_dataset(datalist, task, preprocessing, augmentation, transfer_set, fold)
    images = transfer_dataset(datalist, task, preprocessing, None, transfer_set, fold)
    tensors = [torch.as_tensor(images[index]["image"]) for index in range(len(images))]
    if isinstance(teacher, StoredTargets):
        targets = teacher.read(tensors)
    else:
        teacher = frozen(teacher)
        targets = load_or_compute_targets(teacher, tensors, TargetCache(str(cache_dir), teacher, task), device)
    known = _labels(datalist, task, fold, tensors) if labels else {}
    targets = [_of_label(target, known[index]) if index in known else target for index, target in enumerate(targets)]
    return CachedTargetDataset(images, targets, augmentation, organs, list(known))


def _labels(datalist: str | Path, task: Task, fold: int | None, images: Sequence[Tensor]) -> dict[int, Tensor]:
    """Returns the label (1, H, W) of each labelled slice among the images, by index; slices are found by content."""
    section = load_section(datalist, "training", fold)
    labelled = SliceDataset(section, training_preprocessing(task))
    found = {
        image.numpy().tobytes(): label for image, label in zip(*map(labelled.arrays, ("image", "label")), strict=True)
    }
    return {index: found[key] for index, image in enumerate(images) if (key := image.numpy().tobytes()) in found}


def _of_label(target: QuantisedTarget, label: Tensor) -> QuantisedTarget:
    classes = torch.arange(1, len(target.foreground) + 1)[:, None, None]
    return target._replace(foreground=(label == classes).to(torch.uint8) * LEVELS)


def transfer_sampler(
    dataset: TransferDataset | CachedTargetDataset,
    num_samples: int,
    seed: int = 0,
    foreground_fraction: float = 0.0,
    labelled_fraction: float = 0.0,
) -> SliceSampler:
    """Returns the sampler of the transfer set; without cached targets or foreground, all images are drawn alike.

    Args:
        dataset: dataset of `distillation_dataset`.
        num_samples: draws in an epoch, for each process.
        seed: seed of the draws.
        foreground_fraction: fraction of draws that choose a class of the targets first, and then one of its images.
        labelled_fraction: fraction of draws of labelled slices.
    """
    if not isinstance(dataset, CachedTargetDataset):
        return SliceSampler(len(dataset), num_samples, seed=seed)
    present = dataset.classes_present()
    fraction = foreground_fraction if any(present) else 0.0
    labelled = dataset.labelled if labelled_fraction else ()
    return SliceSampler(len(dataset), num_samples, present, fraction, seed, labelled, labelled_fraction)

"""Sampling of the slices of an epoch."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import ignite.distributed as idist
import torch
from torch.utils.data import Sampler

from tskd_monai.data.slices import SliceDataset
from tskd_monai.data.task import Task

logger = logging.getLogger(__name__)

MAX_SEED = 2**31


class SliceSampler(Sampler[int]):
    """Draws the slices of an epoch; several processes split one common draw.

    A fraction `foreground_share` of the draws chooses a class first, all present classes with equal probability, and
    then one of its slices; the other draws choose any slice. At 0, slices come in random order without replacement
    until all have been drawn.

    Args:
        num_slices: number of slices in the dataset.
        num_samples: draws in an epoch, for each process.
        classes_present: foreground classes on each slice; needed with `foreground_share`.
        foreground_share: fraction of draws that choose a class first, 0 to 1.
        seed: seed of the draws, combined with the epoch of `set_epoch`.

    Raises:
        ValueError: when the dataset is empty, or `foreground_share` is above 0 and no slice has foreground.
    """

    def __init__(
        self,
        num_slices: int,
        num_samples: int,
        classes_present: Sequence[set[int]] | None = None,
        foreground_share: float = 0.0,
        seed: int = 0,
    ) -> None:
        if num_slices < 1:
            raise ValueError("Expected at least one training slice, found none.")
        self.num_slices, self.num_samples, self.seed, self.epoch = num_slices, num_samples, seed, 0
        self.weights = None
        if foreground_share:
            self.weights = _weights(classes_present or [set()] * num_slices, foreground_share)

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of the next draws."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_samples

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.epoch) % MAX_SEED)
        total = self.num_samples * idist.get_world_size()
        if self.weights is None:
            rounds = -(-total // self.num_slices)
            order = torch.cat([torch.randperm(self.num_slices, generator=generator) for _ in range(rounds)])[:total]
        else:
            order = torch.multinomial(self.weights, total, replacement=True, generator=generator)
        return iter(order[idist.get_rank() :: idist.get_world_size()].tolist())


def foreground_sampler(
    dataset: SliceDataset,
    task: Task,
    num_samples: int,
    seed: int = 0,
    absent: str = "refuse",
    foreground_fraction: float | None = None,
) -> SliceSampler:
    """Returns the sampler of labelled slices after checking that their classes are those of the task.

    Args:
        dataset: training slices with encoded labels.
        task: task of the dataset.
        num_samples: draws in an epoch, for each process.
        seed: seed of the draws.
        absent: `refuse` or `warn`, see `checked_classes`.
        foreground_fraction: fraction of draws that choose a class first; None: the task's `foreground_oversampling`.

    Raises:
        ValueError: see `checked_classes` and `SliceSampler`.
    """
    fraction = task.foreground_oversampling if foreground_fraction is None else foreground_fraction
    return SliceSampler(len(dataset), num_samples, checked_classes(dataset, task, absent), fraction, seed)


def checked_classes(dataset: SliceDataset, task: Task, absent: str = "refuse") -> list[set[int]]:
    """Returns the foreground classes on each training slice, after checking them against the task.

    A class without a voxel in planning (frequency 0, as with a few labelled slices) may be absent.

    Args:
        dataset: training slices with encoded labels.
        task: task of the dataset.
        absent: `refuse` or `warn`, when a class of the task is on no training slice: the network unlearns it.

    Raises:
        ValueError: when such a class is refused, or `absent` is neither.
    """
    if absent not in ("refuse", "warn"):
        raise ValueError(f"Expected --absent_classes refuse or warn, found {absent}.")
    present = dataset.classes_present()
    planned = task.class_frequencies or (1.0,) * task.num_classes
    found = set().union(*present)
    missing = [task.labels[index] for index in range(1, task.num_classes) if planned[index] and index not in found]
    if missing:
        names = ", ".join(f"{label.value} ({label.name})" for label in missing)
        if absent == "warn":
            logger.warning("No voxel of %s in the training labels: the network unlearns it.", names)
            return present
        raise ValueError(
            f"Expected the {task.num_classes} classes of the task {task.name} in the training labels, found no voxel "
            f"of {names}. Give the --task that tskd plan writes for this --datalist (and fold), or fix "
            "the labels. The segmentation bundle takes them as they are with --absent_classes warn."
        )
    return present


def _weights(classes_present: Sequence[set[int]], foreground_share: float) -> torch.Tensor:
    """Returns the probability of each slice, (N,)."""
    classes = sorted(set().union(*classes_present))
    if not classes:
        raise ValueError("Expected foreground on some training slice for foreground oversampling, found none.")
    members = torch.tensor(
        [[label in present for label in classes] for present in classes_present], dtype=torch.float64
    )
    by_class = (members / members.sum(dim=0)).mean(dim=1)
    return (1 - foreground_share) / len(classes_present) + foreground_share * by_class

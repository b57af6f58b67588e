"""The same draws in the same epoch, whatever came before."""

from __future__ import annotations

import os
import random

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.transforms import Randomizable

from tskd_monai.training.samplers import SliceSampler

SEED_LIMIT = 2**32
CUBLAS_WORKSPACE = ":4096:8"


def epoch_seed(seed: int, epoch: int, rank: int = 0) -> int:
    """Returns a seed of 32 bits for one epoch of one process."""
    return int(np.random.SeedSequence([seed, epoch, rank]).generate_state(1)[0])


def seed_generators(seed: int) -> None:
    """Seeds Python, NumPy and torch: a config's first step, before a network draws its first weights."""
    random.seed(seed)
    np.random.seed(seed % SEED_LIMIT)
    torch.manual_seed(seed)


def use_deterministic_algorithms(enabled: bool = False) -> None:
    """Has torch choose algorithms that give the same bits each time, on GPUs too: a config's first step.

    On one CPU they do anyway, with the same number of threads. On a GPU some are slower, and for a few operations torch
    knows no such algorithm: it names them in a warning when they are used.

    Args:
        enabled: False leaves torch as it is.

    Raises:
        TypeError: when `enabled` is a word, as the runner's command line reads `true` and `false`.
    """
    if not isinstance(enabled, bool):
        raise TypeError(f"Expected --deterministic True or False, found the word {enabled!r}.")
    if not enabled:
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", CUBLAS_WORKSPACE)  # read when cuBLAS is first used
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)


class ReseedEachEpoch:
    """Seeds every source of random numbers at the start of each epoch, from the seed and the epoch's number.

    A training that goes on from an epoch's end then draws what it would have drawn without the interruption.

    Args:
        seed: of the training.
        dataset: whose random transforms are seeded.
        sampler: which draws the epoch's slices.
    """

    def __init__(self, seed: int, dataset: Randomizable, sampler: SliceSampler) -> None:
        self.seed, self.dataset, self.sampler = seed, dataset, sampler

    def attach(self, engine: Engine) -> None:
        """Seeds at the start of each of this trainer's epochs."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Seeds Python, NumPy, torch, the dataset and the sampler."""
        seed = epoch_seed(self.seed, engine.state.epoch, idist.get_rank())
        seed_generators(seed)
        self.dataset.set_random_state(seed=seed)
        self.sampler.set_epoch(engine.state.epoch)

"""Random draws that depend only on seed, epoch and process."""

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
    """Returns a 32-bit seed for one epoch of one process."""
    return int(np.random.SeedSequence([seed, epoch, rank]).generate_state(1)[0])


def seed_generators(seed: int) -> None:
    """Seeds Python, NumPy and torch; call it before a network initialises its weights."""
    random.seed(seed)
    np.random.seed(seed % SEED_LIMIT)
    torch.manual_seed(seed)


def use_deterministic_algorithms(enabled: bool = False) -> None:
    """Makes torch use deterministic algorithms, on GPUs too; call it before the first computation.

    On a CPU with a fixed number of threads, results are deterministic without it. On a GPU some algorithms are slower,
    and a few operations have no deterministic one: torch warns when they are used.

    Args:
        enabled: False leaves torch's settings unchanged.

    Raises:
        TypeError: when `enabled` is a string, as the runner's command line parses `true` and `false`.
    """
    if not isinstance(enabled, bool):
        raise TypeError(f"Expected --deterministic True or False, found the word {enabled!r}.")
    if not enabled:
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", CUBLAS_WORKSPACE)  # read when cuBLAS is first used
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)


class ReseedEachEpoch:
    """Seeds every source of random numbers at the start of each epoch, from the seed and the epoch number.

    A run that resumes at the end of an epoch then makes the same draws as an uninterrupted one.

    Args:
        seed: seed of the run.
        dataset: dataset whose random transforms are seeded.
        sampler: sampler that draws the slices of an epoch.
    """

    def __init__(self, seed: int, dataset: Randomizable, sampler: SliceSampler) -> None:
        self.seed, self.dataset, self.sampler = seed, dataset, sampler

    def attach(self, engine: Engine) -> None:
        """Seeds at the start of each epoch of this trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Seeds Python, NumPy, torch, the dataset and the sampler."""
        seed = epoch_seed(self.seed, engine.state.epoch, idist.get_rank())
        seed_generators(seed)
        self.dataset.set_random_state(seed=seed)
        self.sampler.set_epoch(engine.state.epoch)

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.transforms import Randomizable

from tskd_monai.training.determinism import SEED_LIMIT, ReseedEachEpoch, epoch_seed, use_deterministic_algorithms
from tskd_monai.training.samplers import SliceSampler


def draws_of_each_epoch(seed: int, start: int, end: int) -> list[tuple[float, ...]]:
    """Returns what each source yields in each epoch; draws before the first epoch must not matter."""
    dataset, sampler = Randomizable(), SliceSampler(50, 5)
    random.random(), np.random.rand(), torch.rand(1), dataset.R.rand()
    drawn: list[tuple[float, ...]] = []
    engine = Engine(lambda engine, batch: None)
    ReseedEachEpoch(seed, dataset, sampler).attach(engine)

    def draw() -> None:
        drawn.append((random.random(), np.random.rand(), float(torch.rand(1)), dataset.R.rand(), *sampler))

    def go_on() -> None:
        engine.state.epoch, engine.state.iteration = start, start

    engine.add_event_handler(Events.STARTED, go_on)
    engine.add_event_handler(Events.ITERATION_COMPLETED, draw)
    engine.run([0], max_epochs=end)
    return drawn


def test_an_epoch_draws_the_same_whatever_came_before() -> None:
    assert draws_of_each_epoch(3, 2, 4) == draws_of_each_epoch(3, 0, 4)[2:]


def test_each_source_differs_between_epochs_and_seeds() -> None:
    first, second = draws_of_each_epoch(3, 0, 2)
    (other_seed,) = draws_of_each_epoch(4, 0, 1)
    assert all(a != b for a, b in zip(first[:4], second[:4], strict=True)) and first[4:] != second[4:]
    # The sampler has a seed of its own.
    assert all(a != b for a, b in zip(first[:4], other_seed[:4], strict=True))


def test_seeds_of_processes_and_epochs_are_distinct_and_fit_numpy() -> None:
    seeds = {epoch_seed(seed, epoch, rank) for seed in range(4) for epoch in range(1, 9) for rank in range(4)}
    assert len(seeds) == 4 * 8 * 4
    assert all(0 <= seed < SEED_LIMIT for seed in seeds)


@pytest.fixture
def torch_as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    yield
    torch.use_deterministic_algorithms(False)
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


def test_torch_is_deterministic_only_on_request(torch_as_it_was: None) -> None:
    use_deterministic_algorithms(False)
    assert not torch.are_deterministic_algorithms_enabled() and torch.backends.cudnn.benchmark
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    use_deterministic_algorithms(True)
    assert torch.are_deterministic_algorithms_enabled() and torch.is_deterministic_algorithms_warn_only_enabled()
    assert not torch.backends.cudnn.benchmark
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_a_word_is_no_setting() -> None:
    with pytest.raises(TypeError, match="Expected --deterministic True or False, found the word 'true'"):
        use_deterministic_algorithms("true")  # type: ignore[arg-type]

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from monai.engines import Evaluator, SupervisedEvaluator

from tskd_monai.data.slices import SliceDataset
from tskd_monai.training.checkpoint import EpochCheckpoint
from tskd_monai.training.handlers import HandlerSequence, standard_handlers
from tskd_monai.training.history import TrainingHistory
from tskd_monai.training.optimisation import lr_schedule
from tskd_monai.training.samplers import SliceSampler

BEFORE = ["Resume", "ReseedEachEpoch"]
AFTER = ["TensorBoardCurves", "EpochCheckpoint", "TrainingProgress", "StopOnSignal"]


class Follower:
    """Records its name whenever an epoch ends."""

    def __init__(self, name: str, notes: list[str]) -> None:
        self.name, self.notes = name, notes

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: self.notes.append(self.name))


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., HandlerSequence]:
    """Returns a builder of the handlers of a run that writes to the test's folder."""

    def handlers(validator: Evaluator | None = None, **options: Any) -> HandlerSequence:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        history = TrainingHistory(tmp_path / "history.jsonl", optimizer, validator)
        return standard_handlers(
            title="Test",
            output_dir=tmp_path,
            seed=0,
            dataset=SliceDataset([{}], lambda entry: {"image": torch.zeros(1, 2, 2, 1)}, keys=["image"]),
            sampler=SliceSampler(1, 1),
            lr_scheduler=lr_schedule(optimizer, 4),
            history=history,
            checkpoint=EpochCheckpoint(tmp_path / "last.pt", {"history": history}, "task"),
            validator=validator,
            **options,
        )

    return handlers


def names(handlers: HandlerSequence) -> list[str]:
    return [type(handler).__name__ for handler in handlers.handlers]


def validator() -> Evaluator:
    """Returns an evaluator of nothing; it is not run."""
    return SupervisedEvaluator(torch.device("cpu"), [], torch.nn.Identity())


def test_the_order_of_a_run_with_validation(build: Callable[..., HandlerSequence]) -> None:
    assert names(build(validator(), extra=[Follower("extra", [])])) == [
        *BEFORE,
        "ValidationPictures",
        "ScheduleLearningRate",
        "Follower",
        "ValidationHandler",
        "ValidateEnds",
        "TrainingHistory",
        "EarlyStopping",
        *AFTER,
    ]


def test_the_order_of_a_run_without_validation(build: Callable[..., HandlerSequence]) -> None:
    assert names(build()) == [*BEFORE, "ScheduleLearningRate", "TrainingHistory", *AFTER]


def test_the_docstring_lists_the_handlers_in_their_order(build: Callable[..., HandlerSequence]) -> None:
    lines = [line for line in (standard_handlers.__doc__ or "").splitlines() if line.strip()[:1].isdigit()]
    built = ["extra" if name == "Follower" else name for name in names(build(validator(), extra=[Follower("", [])]))]
    assert [name for line in lines for name in built if f"`{name}`" in line] == built


def test_what_follows_the_network_comes_before_the_history_and_the_checkpoint(
    build: Callable[..., HandlerSequence], tmp_path: Path
) -> None:
    notes: list[str] = []
    handlers = build(extra=[Follower("extra", notes)])
    for name in ("history", "checkpoint"):
        position = names(handlers).index("TrainingHistory" if name == "history" else "EpochCheckpoint")
        handlers.handlers.insert(position + 1, Follower(name, notes))
    trainer = Engine(lambda engine, batch: {"loss": torch.tensor(1.0)})
    handlers.attach(trainer)
    trainer.run([0], max_epochs=1)
    assert notes == ["extra", "history", "checkpoint"]
    assert {path.name for path in tmp_path.iterdir()} == {"history.jsonl", "last.pt"}


def test_a_word_for_tensorboard_is_refused(build: Callable[..., HandlerSequence]) -> None:
    with pytest.raises(TypeError, match="Expected --tensorboard True or False, found the word 'true'"):
        build(tensorboard="true")


def test_patience_below_one_is_refused(build: Callable[..., HandlerSequence]) -> None:
    with pytest.raises(ValueError, match="Expected --patience of at least 1"):
        build(validator(), patience=0)

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator
from monai.handlers import ValidationHandler

from tskd_monai.training.validation import ValidateEnds, validation_volumes


def validated_epochs(max_epochs: int, interval: int, initial: bool, start: int = 0) -> tuple[list[int], int]:
    """Return the epochs of the validations that a training ends, and how many passes over the data they took."""
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=[{"image": torch.zeros(1, 1, 2), "label": torch.zeros(1, 1, 2)}],
        network=torch.nn.Identity(),
    )
    epochs: list[int] = []
    passes: list[int] = []
    evaluator.add_event_handler(Events.COMPLETED, lambda: epochs.append(evaluator.state.epoch))
    evaluator.add_event_handler(Events.ITERATION_COMPLETED, lambda: passes.append(1))
    trainer = Engine(lambda engine, batch: None)

    def go_on() -> None:
        trainer.state.epoch, trainer.state.iteration = start, start

    trainer.add_event_handler(Events.STARTED, go_on)
    ValidationHandler(interval, evaluator).attach(trainer)
    ValidateEnds(evaluator, interval, initial).attach(trainer)
    trainer.run([0], max_epochs=max_epochs)
    return epochs, len(passes)


@pytest.mark.parametrize(
    ("max_epochs", "interval", "expected"), [(5, 2, [2, 4, 5]), (4, 2, [2, 4]), (1, 3, [1]), (2, 1, [1, 2])]
)
def test_the_last_epoch_is_validated_once(max_epochs: int, interval: int, expected: list[int]) -> None:
    assert validated_epochs(max_epochs, interval, initial=False) == (expected, len(expected))


def test_the_network_that_training_starts_from_is_validated_once() -> None:
    assert validated_epochs(3, 2, initial=True) == ([0, 2, 3], 3)


def test_a_resumed_training_has_been_validated_at_its_start() -> None:
    assert validated_epochs(5, 3, initial=True, start=2) == ([3, 5], 2)


def double(item: dict[str, Any]) -> dict[str, Any]:
    return {**item, "image": 2 * item["image"]}


def test_validation_volumes_are_preprocessed(caplog: pytest.LogCaptureFixture) -> None:
    dataset = validation_volumes([{"image": 3}, {"image": 4}], double, [{"image": 5}])
    assert [item["image"] for item in dataset] == [6, 8]
    assert not caplog.records


def test_without_any_the_training_volumes_are_validated_on_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        dataset = validation_volumes([], double, [{"image": 5}])
    assert [item["image"] for item in dataset] == [10]
    assert "chosen on the 1 training image(s)" in caplog.text

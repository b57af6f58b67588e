from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine, Events

from tskd_monai.training import early_stopping
from tskd_monai.training.checkpoint import EpochCheckpoint, Resume
from tskd_monai.training.early_stopping import EarlyStopping
from tskd_monai.training.history import TrainingHistory

NAN = float("nan")


class Training:
    """An engine of ten epochs whose validations, after every second, measure the given values."""

    def __init__(self, folder: Path, values: Sequence[float], patience: int | None, interval: int = 2) -> None:
        self.engine = Engine(lambda engine, batch: {"loss": torch.tensor(1.0)})
        validator = Engine(lambda engine, batch: None)

        def validate(engine: Engine) -> None:
            validator.state.metrics["val_mean_dice"] = values[engine.state.epoch // interval - 1]
            validator._fire_event(Events.COMPLETED)

        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        history = TrainingHistory(folder / "history.jsonl", optimizer, validator)
        checkpoint = EpochCheckpoint(folder / "last.pt", {"history": history}, "task")
        Resume(checkpoint).attach(self.engine)
        self.engine.add_event_handler(Events.EPOCH_COMPLETED(every=interval), validate)
        for handler in (history, EarlyStopping(history, patience), checkpoint):
            handler.attach(self.engine)

    def run(self, stop_after: int | None = None) -> int:
        """Return the epoch at which it ends."""
        if stop_after is not None:
            self.engine.add_event_handler(Events.EPOCH_COMPLETED(once=stop_after), lambda engine: engine.terminate())
        self.engine.run([0, 1], max_epochs=10)
        return self.engine.state.epoch


@pytest.mark.parametrize(
    ("values", "patience", "end"),
    [
        ([0.1, 0.5, 0.4, 0.5, 0.9], 1, 6),
        ([0.1, 0.5, 0.4, 0.5, 0.9], 2, 8),  # an equal one is not better
        ([0.1, 0.5, 0.4, 0.5, 0.9], 3, 10),
        ([0.1, 0.5, 0.4, 0.6, 0.5], 2, 10),  # a new best starts the count again
        ([NAN, 0.1, 0.2, 0.3, 0.4], 1, 10),
        ([0.1, NAN, NAN, 0.3, 0.4], 2, 6),
        ([0.5, 0.4, 0.3, 0.2, 0.1], None, 10),
    ],
)
def test_training_ends_when_patience_does(tmp_path: Path, values: list[float], patience: int | None, end: int) -> None:
    training = Training(tmp_path, values, patience)
    assert training.run() == end
    assert torch.load(tmp_path / "last.pt", weights_only=True)["progress"] == {"epoch": end, "iteration": 2 * end}


@pytest.mark.parametrize("stop_after", [1, 4, 5, 6, 7])
def test_a_resumed_training_ends_at_the_same_epoch(tmp_path: Path, stop_after: int) -> None:
    values = [0.1, 0.5, 0.4, 0.5, 0.9]
    assert Training(tmp_path, values, 2).run(stop_after) == stop_after
    assert Training(tmp_path, values, 2).run() == 8


def test_a_finished_training_does_no_further_step(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    values = [0.5, 0.4, 0.9, 0.9, 0.9]
    assert Training(tmp_path, values, 1).run() == 4
    before = (tmp_path / "last.pt").read_bytes()
    again, ended = Training(tmp_path, values, 1), []
    again.engine.add_event_handler(Events.COMPLETED, lambda: ended.append(True))
    caplog.clear()
    with caplog.at_level(logging.INFO, early_stopping.__name__):
        assert again.run() == 4
    assert ended == [True]
    assert (tmp_path / "last.pt").read_bytes() == before
    messages = [record.message for record in caplog.records if record.name == early_stopping.__name__]
    assert messages == ["No better validation since epoch 2: training ends."]
    assert Training(tmp_path, values, None).run() == 10  # with more patience it continues


@pytest.mark.parametrize("patience", [0, -1, "null"])
def test_no_patience_at_all_is_refused(tmp_path: Path, patience: int) -> None:
    with pytest.raises(ValueError, match=f"Expected --patience of at least 1 validation, or None, found {patience!r}"):
        Training(tmp_path, [], patience)

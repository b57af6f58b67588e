from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events

from tskd_monai.training import history as history_module
from tskd_monai.training.history import TrainingHistory


@pytest.fixture
def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.25)


def validator(metric: float = 0.5) -> Engine:
    """Returns an engine whose every run measures the metric."""
    engine = Engine(lambda engine, batch: None)

    def measure(engine: Engine) -> None:
        engine.state.metrics["val_mean_dice"] = metric

    engine.add_event_handler(Events.EPOCH_COMPLETED, measure)
    return engine


def trainer() -> Engine:
    """Return an engine whose losses are the batches."""
    return Engine(lambda engine, batch: {"loss": torch.tensor(batch, requires_grad=True)})


def rows_in(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_one_row_an_epoch(tmp_path: Path, optimizer: torch.optim.Optimizer) -> None:
    history = TrainingHistory(tmp_path / "new" / "history.jsonl", optimizer)
    engine = trainer()
    history.attach(engine)

    @engine.on(Events.EPOCH_COMPLETED(once=1))
    def halve() -> None:
        optimizer.param_groups[0]["lr"] /= 2

    engine.run([1.0, 2.0, 6.0], max_epochs=2)
    rows = rows_in(tmp_path / "new" / "history.jsonl")
    assert rows == history.rows
    assert 0 <= rows[0]["seconds"] <= rows[1].pop("seconds")
    rows[0].pop("seconds")
    assert rows == [
        {"epoch": 1, "iteration": 3, "train_loss": 3.0, "learning_rate": 0.25},
        {"epoch": 2, "iteration": 6, "train_loss": 3.0, "learning_rate": 0.125},
    ]


def test_metric_is_in_the_epochs_that_were_validated(tmp_path: Path, optimizer: torch.optim.Optimizer) -> None:
    engine, evaluator = trainer(), validator(0.75)
    engine.add_event_handler(Events.EPOCH_COMPLETED(every=2), lambda: evaluator.run([0]))
    history = TrainingHistory(tmp_path / "history.jsonl", optimizer, evaluator)
    history.attach(engine)
    engine.run([1.0], max_epochs=3)
    assert [row.get("val_mean_dice") for row in history.rows] == [None, 0.75, None]


def test_validation_before_the_first_epoch_belongs_to_none(tmp_path: Path, optimizer: torch.optim.Optimizer) -> None:
    engine, evaluator = trainer(), validator()
    history = TrainingHistory(tmp_path / "history.jsonl", optimizer, evaluator)
    engine.add_event_handler(Events.STARTED, lambda: evaluator.run([0]))
    history.attach(engine)
    engine.run([1.0], max_epochs=1)
    assert "val_mean_dice" not in history.rows[0]


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_loss_that_is_no_number_is_refused(tmp_path: Path, optimizer: torch.optim.Optimizer, loss: float) -> None:
    engine = trainer()
    TrainingHistory(tmp_path / "history.jsonl", optimizer).attach(engine)
    with pytest.raises(ValueError, match=r"became (nan|inf) at iteration 2\. The last good epoch .*--learning_rate"):
        engine.run([1.0, loss, 1.0], max_epochs=1)
    assert not (tmp_path / "history.jsonl").exists()


def test_resumed_history_keeps_its_rows_and_adds_up_time(tmp_path: Path, optimizer: torch.optim.Optimizer) -> None:
    first, engine = TrainingHistory(tmp_path / "history.jsonl", optimizer), trainer()
    first.attach(engine)
    engine.run([1.0], max_epochs=2)
    state = first.state_dict()
    state["rows"][-1]["seconds"] = 1000.0
    second, engine = TrainingHistory(tmp_path / "history.jsonl", optimizer), trainer()
    second.load_state_dict(state)
    second.attach(engine)

    @engine.on(Events.STARTED)
    def go_on() -> None:
        engine.state.epoch, engine.state.iteration = 2, 2

    engine.run([2.0], max_epochs=3)
    rows = rows_in(tmp_path / "history.jsonl")
    assert [(row["epoch"], row["train_loss"]) for row in rows] == [(1, 1.0), (2, 1.0), (3, 2.0)]
    assert 1000.0 <= rows[2]["seconds"] < 1060.0
    assert first.rows[-1]["seconds"] < 60.0


def test_losses_of_an_epoch_that_broke_off_are_forgotten(tmp_path: Path, optimizer: torch.optim.Optimizer) -> None:
    history, engine = TrainingHistory(tmp_path / "history.jsonl", optimizer), trainer()
    history.attach(engine)
    with pytest.raises(ValueError, match="became nan"):
        engine.run([100.0, float("nan")], max_epochs=1)
    engine = trainer()
    history.attach(engine)
    engine.run([1.0, 3.0], max_epochs=1)
    assert history.rows[0]["train_loss"] == 2.0


def test_only_the_first_process_writes(
    tmp_path: Path, optimizer: torch.optim.Optimizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history_module.idist, "get_rank", lambda: 1)
    engine = trainer()
    TrainingHistory(tmp_path / "history.jsonl", optimizer).attach(engine)
    engine.run([1.0], max_epochs=1)
    assert list(tmp_path.iterdir()) == []


def test_the_loss_is_the_mean_over_processes(
    tmp_path: Path, optimizer: torch.optim.Optimizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history_module.idist, "all_reduce", lambda value: value + 4.0)  # the other process has 4
    monkeypatch.setattr(history_module.idist, "get_world_size", lambda: 2)
    history, engine = TrainingHistory(tmp_path / "history.jsonl", optimizer), trainer()
    history.attach(engine)
    engine.run([1.0, 3.0], max_epochs=1)
    assert history.rows[0]["train_loss"] == 3.0

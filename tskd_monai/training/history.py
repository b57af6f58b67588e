"""The history of a training run, one line per epoch."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from torch.optim import Optimizer

from tskd_monai.files.atomic import atomic_path


class TrainingHistory:
    """Writes `history.jsonl`: epoch, iteration, seconds, mean training loss, validation metric, learning rate.

    With several processes, the loss is the mean over all of them, and the first one writes.

    Attach it after the validation handler and before the checkpoint, and add it to the checkpoint: a resumed run
    continues its earlier lines.

    Args:
        path: path of the file.
        optimizer: optimiser whose learning rate is recorded.
        validator: evaluator whose metric is recorded after each epoch with a validation; None without validation.
        metric_name: key in the validator's metrics.
    """

    def __init__(
        self,
        path: str | Path,
        optimizer: Optimizer,
        validator: Engine | None = None,
        metric_name: str = "val_mean_dice",
    ) -> None:
        self.path, self.optimizer, self.metric_name = Path(path), optimizer, metric_name
        self.rows: list[dict[str, Any]] = []
        self._losses: list[float] = []
        self._metric: float | None = None
        self._started = 0.0
        if validator is not None:
            validator.add_event_handler(Events.COMPLETED, self._note_metric)

    def attach(self, engine: Engine) -> None:
        """Records the epochs of this trainer."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin_epoch)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._note_loss)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._write)

    def _start(self, engine: Engine) -> None:
        self._started = time.monotonic()

    def _begin_epoch(self, engine: Engine) -> None:
        # A validation before the first epoch belongs to no epoch, nor do the losses of an interrupted epoch.
        self._losses, self._metric = [], None

    def _note_metric(self, validator: Engine) -> None:
        self._metric = float(validator.state.metrics[self.metric_name])

    def _note_loss(self, engine: Engine) -> None:
        value = loss_of(engine.state.output)
        if not math.isfinite(value):
            raise ValueError(
                f"The training loss became {value} at iteration {engine.state.iteration}. The last good epoch is in "
                "the checkpoint; lower --learning_rate or look for damaged images."
            )
        self._losses.append(value)

    def _write(self, engine: Engine) -> None:
        now = time.monotonic()
        seconds = (self.rows[-1]["seconds"] if self.rows else 0.0) + now - self._started
        row: dict[str, Any] = {
            "epoch": engine.state.epoch,
            "iteration": engine.state.iteration,
            "seconds": round(seconds, 3),
            "train_loss": _mean_over_processes(sum(self._losses) / max(len(self._losses), 1)),
            "learning_rate": float(self.optimizer.param_groups[0]["lr"]),
        }
        if self._metric is not None:
            row[self.metric_name] = self._metric
        self.rows.append(row)
        self._losses, self._metric, self._started = [], None, now
        if idist.get_rank():
            return
        with atomic_path(self.path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in self.rows))

    def state_dict(self) -> dict[str, Any]:
        """Returns the lines so far."""
        return {"rows": [dict(row) for row in self.rows]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self.rows = [dict(row) for row in state_dict["rows"]]


def loss_of(output: Any) -> float:
    """Returns the loss of an iteration from the trainer's output, which may be decollated by image."""
    item = output[0] if isinstance(output, list) else output
    return float(torch.as_tensor(item["loss"]).detach())


def _mean_over_processes(value: float) -> float:
    """Returns the mean of a number over all processes; a collective, which every process must call."""
    total = idist.all_reduce(float(value))
    return float(total) / idist.get_world_size()

"""One progress bar for a whole training run, with the remaining time."""

from __future__ import annotations

import ignite.distributed as idist
from ignite.engine import Engine, Events
from tqdm import tqdm

from tskd_monai.training.history import loss_of


class TrainingProgress:
    """Shows completed iterations, remaining time, the loss and the latest validation metric.

    Attach it after `Resume`, so that the bar of a resumed run starts at its first iteration.

    Args:
        title: title of the bar.
        validator: evaluator whose metric is shown; None without validation.
        metric_name: key in the validator's metrics.
    """

    def __init__(self, title: str, validator: Engine | None = None, metric_name: str = "val_mean_dice") -> None:
        self.title, self.metric_name = title, metric_name
        self._bar: tqdm | None = None
        self._shown: dict[str, str] = {}
        if validator is not None:
            validator.add_event_handler(Events.COMPLETED, self._show_metric)

    def attach(self, engine: Engine) -> None:
        """Shows the iterations of this trainer."""
        engine.add_event_handler(Events.STARTED, self._open)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._advance)
        engine.add_event_handler(Events.COMPLETED, self._close)

    def _open(self, engine: Engine) -> None:
        total = (engine.state.epoch_length or 0) * (engine.state.max_epochs or 0)
        self._bar = tqdm(
            total=total,
            initial=engine.state.iteration,
            desc=self.title,
            unit="step",
            mininterval=1.0,
            disable=idist.get_rank() > 0,
        )

    def _show_metric(self, validator: Engine) -> None:
        self._shown[self.metric_name] = f"{float(validator.state.metrics[self.metric_name]):.3f}"

    def _advance(self, engine: Engine) -> None:
        if self._bar is None:
            return
        self._shown["loss"] = f"{loss_of(engine.state.output):.3f}"
        self._bar.set_postfix(self._shown, refresh=False)
        self._bar.update()

    def _close(self, engine: Engine) -> None:
        if self._bar is not None:
            self._bar.close()

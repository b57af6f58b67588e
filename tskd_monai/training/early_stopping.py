"""Early stopping of a run whose validation no longer improves."""

from __future__ import annotations

import logging
import math

import ignite.distributed as idist
from ignite.engine import Engine, Events

from tskd_monai.training.history import TrainingHistory

logger = logging.getLogger(__name__)


class EarlyStopping:
    """Ends a run after a number of consecutive validations without improvement.

    It counts the validations in the history, which the checkpoint holds: an interrupted run stops at the same epoch as
    an uninterrupted one, and a stopped run that is started again ends at once. Attach it after `Resume` and the
    history.

    Args:
        history: history of the run.
        patience: validations without improvement; None: the run never stops early.

    Raises:
        ValueError: when the patience is below 1.
    """

    def __init__(self, history: TrainingHistory, patience: int | None = None) -> None:
        if patience is not None and (not isinstance(patience, int) or patience < 1):
            raise ValueError(f"Expected --patience of at least 1 validation, or None, found {patience!r}.")
        self.history, self.patience = history, patience

    def attach(self, engine: Engine) -> None:
        """Checks the history when this trainer starts and after each epoch."""
        if self.patience is None:
            return
        engine.add_event_handler(Events.STARTED, self)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Stops the trainer when patience is exhausted; the epoch's other handlers still run."""
        rows = [row for row in self.history.rows if self.history.metric_name in row]
        if self.patience is None or not rows:
            return
        values = [float(row[self.history.metric_name]) for row in rows]
        best = max(range(len(values)), key=lambda i: (not math.isnan(values[i]), values[i]))  # the first of equals
        if len(values) - 1 - best >= self.patience:
            if idist.get_rank() == 0:
                logger.info("No better validation since epoch %d: training ends.", rows[best]["epoch"])
            engine.terminate()

"""Validations at both ends of a training, whatever the interval between the others."""

from __future__ import annotations

from ignite.engine import Engine, Events
from monai.engines import Evaluator


class ValidateEnds:
    """Validates after the last epoch, and on request before the first step, so that either network can be the best.

    Attach it beside MONAI's `ValidationHandler`, which validates every `interval` epochs.

    Args:
        validator: to run.
        interval: of the other handler; the last epoch is left to it where it is a multiple.
        initial: whether the network that training starts from is validated; it is not after a resume.
    """

    def __init__(self, validator: Evaluator, interval: int, initial: bool = False) -> None:
        self.validator, self.interval, self.initial = validator, interval, initial

    def attach(self, engine: Engine) -> None:
        """Watches this trainer's start and its epochs."""
        engine.add_event_handler(Events.STARTED, self._first)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._last)

    def _first(self, engine: Engine) -> None:
        if self.initial and engine.state.epoch == 0:
            self.validator.run(0)

    def _last(self, engine: Engine) -> None:
        epoch = engine.state.epoch
        if epoch == engine.state.max_epochs and epoch % self.interval:
            self.validator.run(epoch)

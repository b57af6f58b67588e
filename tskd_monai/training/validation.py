"""What training is validated on, and validations at both its ends, whatever the interval between the others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ignite.engine import Engine, Events
from monai.data import CacheDataset
from monai.engines import Evaluator

logger = logging.getLogger(__name__)


def validation_volumes(
    data: Sequence[Mapping[str, Any]],
    transform: Callable[[Any], Any],
    training_data: Sequence[Mapping[str, Any]],
) -> CacheDataset:
    """Returns the volumes that choose the best weights, preprocessed and held in memory.

    MONAI Label sets a share of its labels apart, which is none of the first one or two. Then the training volumes
    have to do, with a warning: without any, no weights would be better than those training starts from.

    Args:
        data: items `{"image", "label"}` to validate on; may be empty.
        transform: of an item.
        training_data: the items trained on.
    """
    if not data:
        logger.warning(
            "No image to validate on: the best weights are chosen on the %d training image(s), which says nothing "
            "about other images.",
            len(training_data),
        )
    return CacheDataset(list(data or training_data), transform, num_workers=0)


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

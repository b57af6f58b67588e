"""A momentum encoder follows its encoder, the more slowly the further training is."""

from __future__ import annotations

import math

from ignite.engine import Engine, Events

from tskd_monai.distillation.momentum_contrast import MomentumContrast


class MomentumUpdate:
    """Updates a momentum encoder after each step; the momentum rises from its start to 1 along half a cosine.

    It holds no state: the step is the trainer's, and the momentum encoder is in the network's checkpoint.

    Args:
        network: whose momentum encoder is updated.
        steps: of the whole training.
        start: momentum of the first step.

    Raises:
        ValueError: when the start is not from 0 to 1.
    """

    def __init__(self, network: MomentumContrast, steps: int, start: float = 0.99) -> None:
        if not 0 <= start <= 1:
            raise ValueError(f"Expected a --momentum from 0 to 1, found {start}.")
        self.network, self.steps, self.start = network, steps, start

    def attach(self, engine: Engine) -> None:
        """Follows this trainer."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Updates the momentum encoder."""
        self.network.update_momentum_encoder(self.momentum(engine.state.iteration))

    def momentum(self, step: int) -> float:
        """Returns the momentum after a step, counted from 1."""
        return 1 - (1 - self.start) * 0.5 * (1 + math.cos(math.pi * (step - 1) / self.steps))

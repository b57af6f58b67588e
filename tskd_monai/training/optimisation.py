"""What is optimised, and how fast."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ignite.engine import Engine, Events
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

if TYPE_CHECKING:
    from tskd_monai.networks.encoders import ImageEncoder
    from tskd_monai.networks.teacher import VfmSegmenter

WARMUP_SHARE = 0.05
POLY_POWER = 0.9


def trainable_parameters(network: nn.Module | ImageEncoder) -> list[nn.Parameter]:
    """Returns the parameters that require a gradient."""
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def teacher_parameters(network: VfmSegmenter, encoder_learning_rate: float | None = None) -> list[dict[str, Any]]:
    """Returns a teacher's parameters that require a gradient, decoder and encoder as groups of an optimiser.

    A pre-trained encoder that is fine-tuned as a whole wants smaller steps than the new decoder beside it.

    Args:
        network: the teacher.
        encoder_learning_rate: of the encoder's group; the optimiser's own unless given.
    """
    encoder: dict[str, Any] = {"params": trainable_parameters(network.encoder)}
    if encoder_learning_rate is not None:
        encoder["lr"] = encoder_learning_rate
    groups = [{"params": trainable_parameters(network.decoder)}, encoder]
    return [group for group in groups if group["params"]]


def lr_schedule(optimizer: Optimizer, name: str, steps: int) -> LambdaLR:
    """Returns a schedule that rises linearly over the first 5 % of the steps and then falls to 0.

    Args:
        optimizer: whose rates are set.
        name: `cosine`, half a period, or `poly`, `(1 - progress)^0.9`.
        steps: of the optimiser, in all.

    Raises:
        ValueError: when the name is unknown.
    """
    if name not in FALLS:
        raise ValueError(f"Expected --lr_schedule {' or '.join(FALLS)}, found {name}.")
    warmup, fall = max(1, round(WARMUP_SHARE * steps)), FALLS[name]

    def factor(step: int) -> float:
        if step < warmup:
            return step / warmup
        return fall(min(1.0, (step - warmup) / max(1, steps - warmup)))

    return LambdaLR(optimizer, factor)


def warmup_cosine(optimizer: Optimizer, steps: int) -> LambdaLR:
    """Returns `lr_schedule` with a half cosine."""
    return lr_schedule(optimizer, "cosine", steps)


class ScheduleLearningRate:
    """Steps a schedule after each of the optimiser's steps, of which there may be fewer than batches.

    MONAI's `LrScheduleHandler` steps after every batch: with accumulated gradients n times too fast.

    Args:
        lr_scheduler: to step.
        accumulation_steps: batches for one step of the optimiser; an epoch has a multiple of them.
    """

    def __init__(self, lr_scheduler: LRScheduler, accumulation_steps: int = 1) -> None:
        self.lr_scheduler, self.accumulation_steps = lr_scheduler, accumulation_steps

    def attach(self, engine: Engine) -> None:
        """Follows this trainer."""
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.accumulation_steps), self)

    def __call__(self, engine: Engine) -> None:
        """Goes on to the rate of the next step."""
        self.lr_scheduler.step()


def _cosine(progress: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * progress))


def _poly(progress: float) -> float:
    return (1 - progress) ** POLY_POWER


FALLS = {"cosine": _cosine, "poly": _poly}

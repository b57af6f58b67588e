"""Parameter groups and learning-rate schedules."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ignite.engine import Engine, Events
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from tskd_monai.former_names import former_components

if TYPE_CHECKING:
    from tskd_monai.networks.encoders import ImageEncoder
    from tskd_monai.networks.teacher import VfmSegmenter

WARMUP_FRACTION = 0.05
POLY_POWER = 0.9


def trainable_parameters(network: nn.Module | ImageEncoder) -> list[nn.Parameter]:
    """Returns the parameters that require a gradient."""
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def teacher_parameters(network: VfmSegmenter, encoder_learning_rate: float | None = None) -> list[dict[str, Any]]:
    """Returns a teacher's trainable parameters as parameter groups: the decoder, then the encoder.

    A pre-trained encoder that is fine-tuned in full needs smaller steps than a new decoder.

    Args:
        network: teacher.
        encoder_learning_rate: learning rate of the encoder's group; None: the optimiser's.
    """
    encoder: dict[str, Any] = {"params": trainable_parameters(network.encoder)}
    if encoder_learning_rate is not None:
        encoder["lr"] = encoder_learning_rate
    groups = [{"params": trainable_parameters(network.decoder)}, encoder]
    return [group for group in groups if group["params"]]


def lr_schedule(optimizer: Optimizer, steps: int, name: str = "cosine") -> LambdaLR:
    """Returns a schedule with linear warm-up over the first 5 % of the steps and decay to 0 over the rest.

    Within the steps the cosine equals MONAI's `WarmupCosineSchedule`. That schedule rises again beyond them and stores
    its number of steps in its state: a run that resumes with more epochs would decay to 0 at the previous end and then
    rise. This one stays at 0, and uses the number of steps of the resumed run.

    Args:
        optimizer: optimiser whose learning rates are set.
        steps: steps of the optimiser in the whole run.
        name: `cosine`, half a period, or `poly`, `(1 - progress)^0.9`.

    Raises:
        ValueError: when the name is unknown.
    """
    if name not in DECAYS:
        raise ValueError(f"Expected --lr_schedule {' or '.join(DECAYS)}, found {name}.")
    warmup, decay = max(1, round(WARMUP_FRACTION * steps)), DECAYS[name]

    def factor(step: int) -> float:
        if step < warmup:
            return step / warmup
        return decay(min(1.0, (step - warmup) / max(1, steps - warmup)))

    return LambdaLR(optimizer, factor)


class ScheduleLearningRate:
    """Steps a schedule after each step of the optimiser.

    MONAI's `LrScheduleHandler` steps after every batch, n times too often with gradients accumulated over n batches.

    Args:
        lr_scheduler: schedule to step.
        accumulation_steps: batches in one step of the optimiser; an epoch has a multiple of them.
    """

    def __init__(self, lr_scheduler: LRScheduler, accumulation_steps: int = 1) -> None:
        self.lr_scheduler, self.accumulation_steps = lr_scheduler, accumulation_steps

    def attach(self, engine: Engine) -> None:
        """Steps the schedule during the epochs of this trainer."""
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.accumulation_steps), self)

    def __call__(self, engine: Engine) -> None:
        """Sets the learning rate of the next step."""
        self.lr_scheduler.step()


def _cosine(progress: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * progress))


def _poly(progress: float) -> float:
    return (1 - progress) ** POLY_POWER


DECAYS = {"cosine": _cosine, "poly": _poly}


__getattr__ = former_components(__name__)

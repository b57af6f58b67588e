"""The handlers of a training run, in the one order in which they work together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from ignite.engine import Engine
from monai.engines import Evaluator
from monai.handlers import ValidationHandler
from monai.transforms import Randomizable
from torch.optim.lr_scheduler import LRScheduler

from tskd_monai.training.checkpoint import EpochCheckpoint, Resume
from tskd_monai.training.determinism import ReseedEachEpoch
from tskd_monai.training.early_stopping import EarlyStopping
from tskd_monai.training.history import TrainingHistory
from tskd_monai.training.optimisation import ScheduleLearningRate
from tskd_monai.training.progress import TrainingProgress
from tskd_monai.training.samplers import SliceSampler
from tskd_monai.training.signals import StopOnSignal
from tskd_monai.training.tracking import TensorBoardCurves
from tskd_monai.training.validation import ValidateEnds
from tskd_monai.training.validation_pictures import ValidationPictures

TENSORBOARD = "tensorboard"


class Handler(Protocol):
    """Anything that an ignite engine can be given."""

    def attach(self, engine: Engine) -> Any:
        """Follows this engine."""
        ...


class HandlerSequence:
    """Handlers attached to an engine one after the other, as one component of a config.

    Args:
        handlers: in the order in which ignite calls them at the same event.
    """

    def __init__(self, handlers: Sequence[Handler]) -> None:
        self.handlers = list(handlers)

    def attach(self, engine: Engine) -> None:
        """Attaches each handler to this engine."""
        for handler in self.handlers:
            handler.attach(engine)


def standard_handlers(
    title: str,
    output_dir: str | Path,
    seed: int,
    dataset: Randomizable,
    sampler: SliceSampler,
    lr_scheduler: LRScheduler,
    history: TrainingHistory,
    checkpoint: EpochCheckpoint,
    validator: Evaluator | None = None,
    val_interval: int = 1,
    validate_initial: bool = False,
    patience: int | None = None,
    accumulation_steps: int = 1,
    tensorboard: bool = False,
    extra: Sequence[Handler] = (),
) -> HandlerSequence:
    """Returns the handlers of a training run.

    Ignite calls the handlers of an event in the order in which they were attached, which therefore matters:

    1. `Resume` loads the checkpoint before anything looks at the network or at the number of epochs done.
    2. `ReseedEachEpoch` seeds the epoch before it draws.
    3. `ValidationPictures` opens its file before the first validation; with a validator.
    4. `ScheduleLearningRate` sets the rate of the next step.
    5. `extra` follows the network, for example its moving average, before it is validated.
    6. `ValidationHandler` and `ValidateEnds` validate; with a validator.
    7. `TrainingHistory` writes the epoch with its validation.
    8. `EarlyStopping` reads the history; with a validator.
    9. `TensorBoardCurves` draws the history.
    10. `EpochCheckpoint` saves what all of them hold.
    11. `TrainingProgress` shows the epoch, which is safe now.
    12. `StopOnSignal` ends the process after the step, once everything else has been done.

    Args:
        title: in front of the progress bar.
        output_dir: for TensorBoard's files, in `tensorboard/`.
        seed: that the epochs' seeds are drawn from.
        dataset: whose random transforms are seeded.
        sampler: which draws the slices of an epoch.
        lr_scheduler: stepped after each step of the optimiser.
        history: of the run; it notes the validator's metric.
        checkpoint: of the run; it is resumed from and written.
        validator: run every `val_interval` epochs and after the last; None: the run is not validated.
        val_interval: epochs.
        validate_initial: whether the network is validated before the first step, too.
        patience: validations without a new best before the run ends; None: it never ends early.
        accumulation_steps: batches in one step of the optimiser.
        tensorboard: whether curves and, with a validator, validation slices are written.
        extra: more handlers.
    """
    folder = Path(output_dir) / TENSORBOARD
    first: list[Handler] = [Resume(checkpoint), ReseedEachEpoch(seed, dataset, sampler)]
    validation: list[Handler] = []
    if validator is not None:
        first.append(ValidationPictures(folder / "pictures", validator, tensorboard))
        validation += [
            ValidationHandler(val_interval, validator),
            ValidateEnds(validator, val_interval, validate_initial),
        ]
    return HandlerSequence(
        [
            *first,
            ScheduleLearningRate(lr_scheduler, accumulation_steps),
            *extra,
            *validation,
            history,
            *([] if validator is None else [EarlyStopping(history, patience)]),
            TensorBoardCurves(folder, history, tensorboard),
            checkpoint,
            TrainingProgress(title, validator),
            StopOnSignal(),
        ]
    )

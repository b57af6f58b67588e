"""The handlers of a training run, in the order in which they depend on each other."""

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
    """Protocol of the handlers of an ignite engine."""

    def attach(self, engine: Engine) -> Any:
        """Attaches the handler to this engine."""
        ...


class HandlerSequence:
    """Handlers that are attached to an engine one after the other, as one component of a config.

    Args:
        handlers: handlers in the order in which ignite calls them at the same event.
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

    Ignite calls the handlers of an event in the order in which they were attached, so the order matters:

    1. `Resume` loads the checkpoint before other handlers read the network or the number of completed epochs.
    2. `ReseedEachEpoch` seeds the epoch before its first draw.
    3. `ValidationPictures` opens its file before the first validation; with a validator.
    4. `ScheduleLearningRate` sets the learning rate of the next step.
    5. `extra`, for example the moving average of the network, runs before validation.
    6. `ValidationHandler` and `ValidateEnds` validate; with a validator.
    7. `TrainingHistory` writes the epoch with its validation.
    8. `EarlyStopping` reads the history; with a validator.
    9. `TensorBoardCurves` writes the history.
    10. `EpochCheckpoint` saves the state of all of them.
    11. `TrainingProgress` shows the epoch, which is saved now.
    12. `StopOnSignal` ends the process after the step, when all other handlers have run.

    Args:
        title: title of the progress bar.
        output_dir: output folder; TensorBoard's files are written to `tensorboard/` in it.
        seed: seed from which the seeds of the epochs are derived.
        dataset: dataset whose random transforms are seeded.
        sampler: sampler that draws the slices of an epoch.
        lr_scheduler: schedule that is stepped after each step of the optimiser.
        history: history of the run; it records the validator's metric.
        checkpoint: checkpoint to resume from and to write.
        validator: evaluator that runs every `val_interval` epochs and after the last; None: no validation.
        val_interval: epochs between two validations.
        validate_initial: whether the network is also validated before the first step.
        patience: validations without improvement before the run ends; None: the run never stops early.
        accumulation_steps: batches in one step of the optimiser.
        tensorboard: whether curves and, with a validator, validation slices are written.
        extra: further handlers.
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

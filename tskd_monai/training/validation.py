"""Validation during training: its volumes, inferer, evaluator and metric, and validation at start and end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.data import CacheDataset, DataLoader
from monai.engines import Evaluator, SupervisedEvaluator
from monai.handlers import MeanDice, from_engine
from monai.inferers import SliceInferer
from monai.transforms import AsDiscreted, Compose
from torch.utils.data import Dataset

from tskd_monai.data.task import Task

logger = logging.getLogger(__name__)


def validation_volumes(
    data: Sequence[Mapping[str, Any]],
    transform: Callable[[Any], Any],
    training_data: Sequence[Mapping[str, Any]],
) -> CacheDataset:
    """Returns the volumes that select the best weights, preprocessed and held in memory.

    MONAI Label sets a fraction of its labels aside, which is none of the first one or two. Then the training volumes
    are used, with a warning: without any, no weights would be better than the initial ones.

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
    """Validates after the last epoch and, if asked, before the first step, so that either network can be the best.

    Attach it beside MONAI's `ValidationHandler`, which validates every `interval` epochs.

    Args:
        validator: to run.
        interval: of the other handler, which validates the last epoch if it is a multiple.
        initial: whether the initial network is validated; not when training resumes.
    """

    def __init__(self, validator: Evaluator, interval: int, initial: bool = False) -> None:
        self.validator, self.interval, self.initial = validator, interval, initial

    def attach(self, engine: Engine) -> None:
        """Follows the start of this trainer and its epochs."""
        engine.add_event_handler(Events.STARTED, self._first)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._last)

    def _first(self, engine: Engine) -> None:
        if self.initial and engine.state.epoch == 0:
            self.validator.run(0)

    def _last(self, engine: Engine) -> None:
        epoch = engine.state.epoch
        if epoch == engine.state.max_epochs and epoch % self.interval:
            self.validator.run(epoch)


def slice_inferer(task: Task, sw_batch_size: int = 8, overlap: float = 0.25) -> SliceInferer:
    """Returns the inferer of a 2D network over volumes (B, C, H, W, D): slice by slice along the last axis.

    A slice of the task's image size, or smaller, is one window; a larger one is several that overlap.

    Args:
        task: its image size is the window.
        sw_batch_size: windows in one forward pass.
        overlap: fraction of a window that its neighbour covers too.
    """
    return SliceInferer(
        roi_size=task.image_size, sw_batch_size=sw_batch_size, overlap=overlap, mode="gaussian", spatial_dim=2
    )


def dice_evaluator(
    network: torch.nn.Module,
    dataset: Dataset[Any],
    inferer: SliceInferer,
    task: Task,
    device: torch.device | str,
    handlers: Sequence[Any] = (),
) -> SupervisedEvaluator:
    """Returns the evaluator that validation during training uses.

    Its metric `val_mean_dice` is the mean over cases of the mean Dice over foreground classes, of whole volumes at
    the network's resolution; a class that a case's label lacks is left out of its mean.

    Args:
        network: images to logits.
        dataset: preprocessed volumes with `image` and `label` (network classes).
        inferer: over volumes.
        task: for the number of classes.
        device: to run on.
        handlers: of the evaluator.
    """
    to_one_hot = Compose(
        [
            AsDiscreted("pred", argmax=True, to_onehot=task.num_classes),
            AsDiscreted("label", to_onehot=task.num_classes),
        ]
    )
    return SupervisedEvaluator(
        device=torch.device(device),
        val_data_loader=DataLoader(dataset, batch_size=1),
        network=network,
        inferer=inferer,
        postprocessing=to_one_hot,
        key_val_metric={
            "val_mean_dice": MeanDice(include_background=False, output_transform=from_engine(["pred", "label"]))
        },
        val_handlers=list(handlers),
    )

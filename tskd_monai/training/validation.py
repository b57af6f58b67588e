"""Validation during training: volumes, inferer, evaluator and metric, and validation at start and end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.data import CacheDataset, DataLoader
from monai.engines import Evaluator, SupervisedEvaluator
from monai.handlers import MeanDice, from_engine
from monai.inferers import SliceInferer
from monai.transforms import AsDiscreted, Compose, Transform
from torch.utils.data import Dataset

from tskd_monai.data.neighbours import with_neighbours
from tskd_monai.data.task import Task
from tskd_monai.losses.marginal_dice_ce import may_be

logger = logging.getLogger(__name__)


def validation_volumes(
    data: Sequence[Mapping[str, Any]],
    transform: Callable[[Any], Any],
    training_data: Sequence[Mapping[str, Any]],
) -> CacheDataset:
    """Returns the validation volumes, which select the best weights, preprocessed and held in memory.

    MONAI Label sets a fraction of its labels aside for validation, which is none of the first one or two. Then the
    training volumes are used, with a warning: without any, the best weights would be the initial ones.

    Args:
        data: items `{"image", "label"}` to validate on; may be empty.
        transform: preprocessing of an item.
        training_data: training items.
    """
    if not data:
        logger.warning(
            "No image to validate on: the best weights are chosen on the %d training image(s), which says nothing "
            "about other images.",
            len(training_data),
        )
    return CacheDataset(list(data or training_data), transform, num_workers=0)


class ValidateEnds:
    """Validates after the last epoch and optionally before the first step, so that either network can be the best.

    Attach it with MONAI's `ValidationHandler`, which validates every `interval` epochs.

    Args:
        validator: evaluator to run.
        interval: interval of `ValidationHandler`, which validates the last epoch itself if that is a multiple.
        initial: whether the initial network is validated; a resumed run skips this.
    """

    def __init__(self, validator: Evaluator, interval: int, initial: bool = False) -> None:
        self.validator, self.interval, self.initial = validator, interval, initial

    def attach(self, engine: Engine) -> None:
        """Validates at the start of this trainer and after its last epoch."""
        engine.add_event_handler(Events.STARTED, self._first)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._last)

    def _first(self, engine: Engine) -> None:
        if self.initial and engine.state.epoch == 0:
            self.validator.run(0)

    def _last(self, engine: Engine) -> None:
        epoch = engine.state.epoch
        if epoch == engine.state.max_epochs and epoch % self.interval:
            self.validator.run(epoch)


class NeighbourInferer(SliceInferer):
    """A `SliceInferer` whose network takes each slice with its neighbours as channels.

    Args:
        neighbours: slices on each side.
        kwargs: arguments of `SliceInferer`.
    """

    def __init__(self, neighbours: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.neighbours = neighbours
        self.window = self.orig_roi_size

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Returns logits (B, K, H, W, D) of volumes (B, C, H, W, D)."""
        whole_size = getattr(network, "whole_size", None)  # of a network that must not be given a part of a slice
        self.orig_roi_size = whole_size(inputs.shape[2:4]) if whole_size else self.window
        return super().__call__(with_neighbours(inputs, self.neighbours), network, *args, **kwargs)


def slice_inferer(task: Task, sw_batch_size: int = 8, overlap: float = 0.25, neighbours: int = 0) -> SliceInferer:
    """Returns the inferer of a 2D network over volumes (B, C, H, W, D): slice by slice along the last axis.

    A slice of at most the task's image size is one window; a larger slice is covered by overlapping windows, or passes
    whole through a network that requires it.

    Args:
        task: task whose image size is the window.
        sw_batch_size: windows in one forward pass.
        overlap: overlap of neighbouring windows, as a fraction of a window.
        neighbours: slices on each side that the network takes as further channels.
    """
    return NeighbourInferer(
        neighbours,
        roi_size=task.image_size,
        sw_batch_size=sw_batch_size,
        overlap=overlap,
        mode="gaussian",
        spatial_dim=2,
    )


class LeaveOutUnknownd(Transform):
    """Takes voxels out of a one-hot prediction of which a partly labelled case does not state that they are not it.

    The label becomes class indices only: what a voxel may be becomes background.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns the item with `pred` (K, H, W, D) and `label` (1, H, W, D); a complete one is unchanged."""
        label = data["label"]
        if not bool((label < 0).any()):
            return dict(data)
        pred = data["pred"].clone()
        for index in range(1, len(pred)):
            pred[index] = pred[index].masked_fill(may_be(label[0], index), 0)
        return {**data, "pred": pred, "label": label.clamp(min=0)}


def dice_evaluator(
    network: torch.nn.Module,
    dataset: Dataset[Any],
    inferer: SliceInferer,
    task: Task,
    device: torch.device | str,
    handlers: Sequence[Any] = (),
) -> SupervisedEvaluator:
    """Returns the evaluator for validation during training.

    Its metric `val_mean_dice` is the mean over cases of the mean Dice over foreground classes, of whole volumes at the
    network's resolution; classes that are absent from a case's label are excluded from its mean, and voxels of which
    it is unknown whether they are a class, from the Dice of this class.

    Args:
        network: maps images to logits.
        dataset: preprocessed volumes with `image` and `label` (network classes).
        inferer: inferer over volumes.
        task: task with the number of classes.
        device: device to run on.
        handlers: handlers of the evaluator.
    """
    to_one_hot = Compose(
        [
            AsDiscreted("pred", argmax=True, to_onehot=task.num_classes),
            LeaveOutUnknownd(),
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

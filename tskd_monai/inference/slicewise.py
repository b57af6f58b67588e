"""2D networks over volumes, and their Dice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.data import DataLoader
from monai.engines import SupervisedEvaluator
from monai.handlers import MeanDice, from_engine
from monai.inferers import SliceInferer
from monai.transforms import AsDiscreted, Compose
from torch.utils.data import Dataset

from tskd_monai.data.task import Task


def slice_inferer(task: Task, sw_batch_size: int = 8, overlap: float = 0.25) -> SliceInferer:
    """Returns the inferer of a 2D network over volumes (B, C, H, W, D): slice by slice along the last axis.

    A slice of the task's image size, or smaller, is one window; a larger one is several that overlap.

    Args:
        task: whose image size is the window.
        sw_batch_size: windows in one forward pass.
        overlap: share of a window that its neighbour sees too.
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

"""Largest-component filters that lower the validation Dice of a network.

An organ is one connected component; but where a network labels a part of the stomach as spleen, that part may be the
largest component, and the filter removes the spleen.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from statistics import fmean
from typing import Any

import torch
from monai.engines import SupervisedEvaluator
from torch import Tensor

from tskd_monai.data.task import Task
from tskd_monai.losses.marginal_dice_ce import may_be
from tskd_monai.transforms.labels import KeepLargestComponentsd

logger = logging.getLogger(__name__)


@torch.no_grad()
def harmful_filters(network: torch.nn.Module, validator: SupervisedEvaluator, task: Task) -> tuple[int, ...]:
    """Returns the label values whose largest-component filter lowers the mean Dice over the validation cases.

    Cases whose reference lacks a class are not counted for it, nor are voxels that may be it in a partly labelled case.

    Args:
        network: maps images (B, C, H, W) to logits; left in evaluation mode.
        validator: evaluator with the preprocessed validation volumes and the inferer.
        task: task whose `keep_largest_component` lists the filters.
    """
    if not task.keep_largest_component:
        return ()
    gains: dict[int, list[float]] = {value: [] for value in task.keep_largest_component}
    network.eval()
    for item in validator.data_loader.dataset:  # type: ignore[union-attr]
        _add_gains(gains, _classes(item, network, validator), torch.as_tensor(item["label"]).as_subclass(Tensor), task)
    harmful = tuple(value for value, of_cases in gains.items() if of_cases and fmean(of_cases) < 0)
    for value in harmful:
        name, loss = task.foreground[value], -fmean(gains[value])
        logger.info("The largest component of %s is not kept: it lowers validation Dice by %.3f.", name, loss)
    return harmful


def _classes(item: Mapping[str, Any], network: torch.nn.Module, validator: SupervisedEvaluator) -> Tensor:
    """Returns the network's classes (1, H, W, D) of one case."""
    image = torch.as_tensor(item["image"])[None].to(validator.state.device)
    return torch.as_tensor(validator.inferer(image, network)).as_subclass(Tensor).argmax(dim=1).cpu()


def _add_gains(gains: Mapping[int, list[float]], predicted: Tensor, label: Tensor, task: Task) -> None:
    classes = {value: task.label_values.index(value) for value in gains}
    filtered = KeepLargestComponentsd("pred", list(classes.values()))({"pred": predicted})["pred"]
    for value, index in classes.items():
        reference = label == index
        if reference.any():
            known = ~may_be(label, index)
            before, after = ((one == index) & known for one in (predicted, filtered))
            gains[value].append(_dice(after, reference) - _dice(before, reference))


def _dice(first: Tensor, second: Tensor) -> float:
    return 2 * int((first & second).sum()) / int(first.sum() + second.sum())

"""What each image of a transfer set is conditioned on: drawn from the image's own seed, as its noise is."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from tskd_monai.data.slices import SliceDataset
from tskd_monai.synthesis.diffusion import label_map_condition, position_condition

CONDITION_STREAM = 1  # keeps a seed's condition apart from its noise


@dataclass(frozen=True)
class DrawnCondition:
    """The condition of one image.

    Attributes:
        record: for the transfer set's list, JSON; None without a condition.
        position: along the body, in [0, 1].
        label: class indices (1, H, W), uint8.
    """

    record: dict[str, Any] | None = None
    position: float | None = None
    label: torch.Tensor | None = None


class ConditionSource(Protocol):
    """Draws the condition of an image from its seed.

    Attributes:
        settings: what decides the draws besides the seed; JSON.
    """

    settings: dict[str, Any]

    def draw(self, seed: int) -> DrawnCondition:
        """Returns the condition of the image with this seed."""
        ...

    def batch(self, drawn: Sequence[DrawnCondition], patch_size: int) -> dict[str, torch.Tensor]:
        """Returns what the network is given for these images."""
        ...


class Unconditional:
    """No condition."""

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {"kind": "none"}

    def draw(self, seed: int) -> DrawnCondition:
        """Returns the same for every seed."""
        return DrawnCondition()

    def batch(self, drawn: Sequence[DrawnCondition], patch_size: int) -> dict[str, torch.Tensor]:
        """Returns nothing."""
        return {}


class SlicePositions:
    """Positions along the body, uniform in [0, 1], as slices of evenly spaced volumes are."""

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {"kind": "slice_position"}

    def draw(self, seed: int) -> DrawnCondition:
        """Returns the position of the image with this seed."""
        position = float(np.random.default_rng([seed, CONDITION_STREAM]).random())
        return DrawnCondition(record={"slice_position": round(position, 6)}, position=position)

    def batch(self, drawn: Sequence[DrawnCondition], patch_size: int) -> dict[str, torch.Tensor]:
        """Returns the positions (B,)."""
        return position_condition(torch.tensor([condition.position for condition in drawn]))


class LabelMaps:
    """Label maps of the training slices, moved at random, each to be filled with an image.

    Args:
        dataset: labelled training slices, `label` (1, H, W); its slice transform moves them.
        num_classes: background included.

    Raises:
        ValueError: when there are no slices.
    """

    def __init__(self, dataset: SliceDataset, num_classes: int) -> None:
        if not len(dataset):
            raise ValueError("Expected labelled training slices for condition label_map, found none; label some.")
        self.dataset, self.num_classes = dataset, num_classes
        self.settings = {"kind": "label_map", "labels_sha256": _labels_sha256(dataset)}

    def draw(self, seed: int) -> DrawnCondition:
        """Returns the label map of the image with this seed."""
        index = int(np.random.default_rng([seed, CONDITION_STREAM]).integers(len(self.dataset)))
        self.dataset.set_random_state(seed)
        label = torch.as_tensor(np.asarray(self.dataset[index]["label"])).round().to(torch.uint8)
        return DrawnCondition(record={"label_map": index}, label=label)

    def batch(self, drawn: Sequence[DrawnCondition], patch_size: int) -> dict[str, torch.Tensor]:
        """Returns the one-hot label maps (B, (num_classes - 1)·p², H/p, W/p)."""
        labels = torch.stack([condition.label for condition in drawn if condition.label is not None])
        return label_map_condition(labels, self.num_classes, patch_size)


def _labels_sha256(dataset: SliceDataset) -> str:
    digest = hashlib.sha256()
    for label in dataset.arrays("label"):
        digest.update(label.to(torch.uint8).numpy().tobytes())
    return digest.hexdigest()

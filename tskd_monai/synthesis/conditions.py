"""Conditions of the images of a transfer set, drawn from each image's own seed, like its noise."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from tskd_monai.data.slices import SliceDataset
from tskd_monai.synthesis.diffusion import label_map_condition, position_condition, require_complete

CONDITION_STREAM = 1  # separates a seed's condition from its noise


@dataclass(frozen=True)
class DrawnCondition:
    """The condition of one image.

    Attributes:
        record: JSON for the manifest of the transfer set; None without a condition.
        position: slice position along the body, in [0, 1]; None for other conditions.
        label: class indices (1, H, W), uint8; None for other conditions.
        source: real image (C, H, W) in [0, 1] from which sampling starts; None: it starts from noise.
    """

    record: dict[str, Any] | None = None
    position: float | None = None
    label: torch.Tensor | None = None
    source: torch.Tensor | None = None


class ConditionSource(Protocol):
    """Draws the condition of an image from its seed.

    Attributes:
        settings: JSON values that determine the draws, besides the seed.
        strength: fraction of the noise levels that sampling starts from, where images have a source; None: all of them.
    """

    settings: dict[str, Any]
    strength: float | None

    def draw(self, seed: int) -> DrawnCondition:
        """Returns the condition of the image with this seed."""
        ...

    def batch(self, drawn: Sequence[DrawnCondition], patch_size: int) -> dict[str, torch.Tensor]:
        """Returns the network's conditioning inputs for these images."""
        ...


class Unconditional:
    """No condition."""

    strength: float | None = None

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {"kind": "none"}

    def draw(self, seed: int) -> DrawnCondition:
        """Returns the empty condition."""
        return DrawnCondition()

    def batch(self, drawn: Sequence[DrawnCondition], patch_size: int) -> dict[str, torch.Tensor]:
        """Returns no inputs."""
        return {}


class SlicePositions:
    """Slice positions along the body, uniform in [0, 1], as for evenly spaced slices."""

    strength: float | None = None

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
    """Label maps of randomly transformed training slices.

    Args:
        dataset: labelled training slices, `label` (1, H, W), with a random slice transform.
        num_classes: number of classes, background included.

    Raises:
        ValueError: when the dataset is empty, or a case is partly labelled.
    """

    strength: float | None = None

    def __init__(self, dataset: SliceDataset, num_classes: int) -> None:
        if not len(dataset):
            raise ValueError("Expected labelled training slices for condition label_map, found none; label some.")
        for label in dataset.arrays("label"):
            require_complete(label)
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

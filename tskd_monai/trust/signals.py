"""The signals of a case, collected while it is segmented slice by slice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from tskd_monai.data.neighbours import with_neighbours
from tskd_monai.data.task import Task
from tskd_monai.transforms.labels import largest_class
from tskd_monai.trust.entropy import mean_entropy
from tskd_monai.trust.features import kept_descriptors
from tskd_monai.trust.shape import Shape, structure_shape
from tskd_monai.trust.views import agreement, view_of, view_slices

BATCH = 8


@dataclass(frozen=True)
class StructureSignals:
    """Signals of one structure.

    Attributes:
        shape: its shape.
        entropy: mean entropy inside, in the second view, 0 to 1; 1 if it is not found there.
        disagreement: 1 - Dice between the two views; 1 if only one has it, 0 if neither.
    """

    shape: Shape
    entropy: float
    disagreement: float


@dataclass(frozen=True)
class CaseSignals:
    """Signals of one case.

    Attributes:
        structures: by name.
        descriptors: features of the slices of the view, (S, F).
        field_of_view: longer side of the slices, mm (pixels for images without a spacing).
        slice_distance: mm; None for one slice.
        length: slices times their distance, mm; None for one slice.
    """

    structures: Mapping[str, StructureSignals]
    descriptors: np.ndarray
    field_of_view: float
    slice_distance: float | None
    length: float | None


class SignalCollector:
    """Collects the signals of one case: `add` for each batch of slices, then `finish`.

    Args:
        task: task of the network.
        layer: layer whose features are described.
    """

    def __init__(self, task: Task, layer: str) -> None:
        self.task, self.layer = task, layer
        self._labels: list[Tensor] = []
        self._classes = torch.arange(task.num_classes, dtype=torch.uint8 if task.num_classes < 256 else torch.int32)

    def add(self, logits: Tensor) -> Tensor:
        """Adds the next slices; returns their classes (B, H, W).

        Args:
            logits: (B, K, H, W).
        """
        self._labels.append(largest_class(logits.unbind(dim=1), self._classes).cpu())
        return self._labels[-1]

    @torch.no_grad()
    def finish(self, image: Tensor, spacing: tuple[float, float, float], network: nn.Module) -> CaseSignals:
        """Returns the signals, after the second view of some slices.

        Args:
            image: all slices (C, H, W, D) in [0, 1].
            spacing: mm along rows, columns and slices.
            network: the student, images (B, C, H, W) to logits (B, K, H, W).
        """
        labels = torch.cat(self._labels)
        same, entropy, descriptors = self._second_view(image, labels, network)
        label_map = labels.numpy()
        structures = {
            name: StructureSignals(
                structure_shape(label_map == number, spacing, only_largest=value in self.task.filtered),
                _known(entropy[number], 1.0),
                1 - _known(same[number], 1.0),
            )
            for number, (value, name) in enumerate(self.task.foreground.items(), start=1)
        }
        rows, columns, slices = image.shape[-3:]
        several = slices > 1
        return CaseSignals(
            structures,
            descriptors,
            field_of_view=max(rows * spacing[0], columns * spacing[1]),
            slice_distance=spacing[2] if several else None,
            length=slices * spacing[2] if several else None,
        )

    def _second_view(
        self, image: Tensor, labels: Tensor, network: nn.Module
    ) -> tuple[list[float | None], list[float | None], np.ndarray]:
        """Returns agreement and entropy of each class in the second view, and the descriptors of its slices (S, F)."""
        chosen = view_slices(len(labels))
        device = next(network.parameters(), image).device
        around = self.task.neighbours
        stacks = [with_neighbours(image, around, range(index, index + 1)) for index in chosen.tolist()]
        slices = torch.cat(stacks, dim=-1).movedim(-1, 0).to(device)
        window = self.task.image_size
        with kept_descriptors(network, self.layer) as descriptors:
            logits = torch.cat([network(batch).cpu() for batch in view_of(slices, window).split(BATCH)])
        seen = largest_class(logits.unbind(dim=1), self._classes)
        before = view_of(labels[chosen][:, None], window, "nearest")[:, 0]
        same = agreement(before, seen, self.task.num_classes)
        return same, mean_entropy(logits, seen), torch.cat(descriptors).cpu().numpy()


def _known(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value

"""Inference from a preprocessed image to its label map on the image's own grid, one batch of slices at a time."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Protocol, cast

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer, SlidingWindowInferer
from torch import Tensor
from torch.nn import functional as F

from tskd_monai.data.neighbours import with_neighbours
from tskd_monai.data.task import Task
from tskd_monai.inference.image_grid import ImageGrid, image_grid, linear_labels, nearest_labels

Predictor = Callable[[Tensor], Tensor]
"""Windows (B, C, H, W) to logits (B, K, H, W)."""


class Engine(Protocol):
    """Protocol of the engines that run the network."""

    def __call__(self, network: Predictor) -> Predictor:
        """Returns the predictor: the network, or its exported form."""


class TorchEngine:
    """Runs the network itself."""

    def __call__(self, network: Predictor) -> Predictor:
        """Returns the network."""
        return network


class Assessor(Protocol):
    """Protocol of what assesses a segmentation from its logits, case by case."""

    def start(self) -> None:
        """Begins a case."""

    def add(self, logits: Tensor) -> None:
        """Takes the logits (B, K, H, W) of the next slices."""

    def finish(self, image: Tensor, network: object) -> dict[str, Any] | None:
        """Returns the quality of the case (C, H, W, D), or None if it cannot be assessed."""


QUALITY = "quality"
"""Key of the quality of a case, JSON, in the metadata of its label map."""

UPSAMPLING: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "linear": linear_labels,
    "nearest": nearest_labels,
}


class LabelMapInferer(Inferer):
    """Segments a volume slice by slice and returns the class of every voxel of the original image.

    Logits exist for only one batch of slices. Memory is that of the image and one label map, independent of the number
    of classes, and there is no inverse transform: the affines of image and network give the position of each voxel.

    A slice of at most the task's image size is one window; a larger slice is covered by overlapping windows, or passes
    whole through a network that requires it.

    Args:
        task: task with the window size and the label values.
        sw_batch_size: slices, or windows of larger slices, in one forward pass.
        overlap: overlap of neighbouring windows, as a fraction of a window.
        engine: engine that runs the network; None: torch.
        upsampling: `linear`: logits are interpolated, then the class is chosen; `nearest`: the class of the nearest
            pixel of the network.
        device: device on which logits become labels; None: that of the image.
        neighbours: slices on each side that the network takes as further channels, see `data.neighbours`.
        assessor: assesses each case; its result is JSON in the label map's metadata, as `quality`.

    Raises:
        ValueError: when `upsampling` is another word.
    """

    def __init__(
        self,
        task: Task,
        sw_batch_size: int = 8,
        overlap: float = 0.25,
        engine: Engine | None = None,
        upsampling: str = "linear",
        device: torch.device | str | None = None,
        neighbours: int = 0,
        assessor: Assessor | None = None,
    ) -> None:
        if upsampling not in UPSAMPLING:
            raise ValueError(f"Expected --upsampling linear or nearest, found {upsampling}.")
        self.window = task.image_size
        self.label_values = task.label_values
        self.sw_batch_size = sw_batch_size
        self.engine = engine or TorchEngine()
        self.device = device
        self.neighbours = neighbours
        self.assessor = assessor
        self._labels = UPSAMPLING[upsampling]
        self._windows = SlidingWindowInferer(self.window, sw_batch_size, overlap, mode="gaussian")

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> MetaTensor:
        """Returns the label map (1, 1, X, Y, Z), uint8 where the label values fit, else int32, on the CPU.

        Args:
            inputs: one image (1, C, H, W, D) from `preprocessing`.
            network: maps windows (B, C, H, W) to logits (B, K, H, W).
            args: part of MONAI's interface; unused.
            kwargs: part of MONAI's interface; unused.

        Raises:
            TypeError: when the image has no metadata.
            ValueError: when there are several images, the image's grid cannot be restored, or an exported network would
                have to take slices that are larger than its window.
        """
        if inputs.shape[0] != 1:
            raise ValueError(
                f"Expected one image at a time, found {inputs.shape[0]}; set batch_size of DataLoader to 1."
            )
        image = inputs[0]
        grid = image_grid(image)
        whole_size = getattr(network, "whole_size", None)  # of a network that must not be given a part of a slice
        window = whole_size(image.shape[1:3]) if whole_size else self.window
        if window != self.window and not isinstance(self.engine, TorchEngine):
            raise ValueError(
                f"Expected slices of at most {self.window[0]} x {self.window[1]} pixels for the exported form of a "
                f"student with coordinates, found {image.shape[1]} x {image.shape[2]}; use --engine torch."
            )
        if self.assessor is not None:
            self.assessor.start()
        label_map = grid.to_image_axes(self._label_map(image, self.engine(network), grid, window))
        assert isinstance(inputs, MetaTensor)  # `image_grid` has checked it
        restored = MetaTensor(label_map[None, None], meta={**inputs.meta, "affine": inputs.meta["original_affine"]})
        restored.is_batch = inputs.is_batch
        if self.assessor is not None and (quality := self.assessor.finish(image, network)) is not None:
            restored.meta[QUALITY] = json.dumps(quality)
        return restored

    def _label_map(self, image: Tensor, predict: Predictor, grid: ImageGrid, window: tuple[int, int]) -> Tensor:
        """Returns label values (slices, rows, columns) on the image's grid."""
        values = torch.tensor(self.label_values, dtype=torch.uint8 if max(self.label_values) < 256 else torch.int32)
        label_map = grid.empty_label_map(values.dtype)
        planes = image.as_tensor() if isinstance(image, MetaTensor) else image
        device = self.device or planes.device
        rows, columns = grid.rows.to(device), grid.columns.to(device)
        for start in range(0, len(grid.slices), self.sw_batch_size):
            batch = range(start, min(start + self.sw_batch_size, len(grid.slices)))
            logits = self._logits(self._slices(planes, batch).movedim(-1, 0).contiguous(), predict, window)
            if self.assessor is not None:
                self.assessor.add(logits)
            label_map[grid.slices[batch.start : batch.stop]] = self._labels(
                logits.to(device), rows, columns, values
            ).cpu()
        return label_map

    def _slices(self, planes: Tensor, batch: range) -> Tensor:
        """Returns what the network takes of some slices, (C, H, W, B), or (2 neighbours + 1) C channels."""
        if self.neighbours:
            return with_neighbours(planes, self.neighbours, batch)
        return planes[..., batch.start : batch.stop]

    def _logits(self, slices: Tensor, predict: Predictor, window: tuple[int, int]) -> Tensor:
        """Returns logits (B, K, H, W) of slices (B, C, H, W)."""
        missing = [most - size for most, size in zip(window, slices.shape[-2:], strict=True)]
        if min(missing) < 0:
            return cast(Tensor, self._windows(slices, predict))
        top, left = missing[0] // 2, missing[1] // 2
        padded = F.pad(slices, (left, missing[1] - left, top, missing[0] - top))
        height, width = slices.shape[-2:]
        return predict(padded)[:, :, top : top + height, left : left + width]

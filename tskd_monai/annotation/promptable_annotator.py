"""Label maps from boxes and points with a promptable model, a slice at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tskd_monai.annotation.embedding_cache import BoundedEmbeddings
from tskd_monai.annotation.prompts import Prompt
from tskd_monai.annotation.propagation import Box, PropagationSettings, propagate, reach
from tskd_monai.annotation.slice_view import SlicedImage
from tskd_monai.distillation.refiner import EmbeddingCache
from tskd_monai.networks.teacher import state_sha256

if TYPE_CHECKING:  # it imports transformers
    from tskd_monai.networks.promptable import PromptableSegmenter


class Annotation(NamedTuple):
    """What the prompts of an image give.

    Attributes:
        label_map: label values along the array axes of the image's file, uint16.
        marked: slices that have prompts, ascending; indices as of a datalist's `slices`.
        filled: slices that were reached by propagation only, ascending.
    """

    label_map: np.ndarray
    marked: tuple[int, ...]
    filled: tuple[int, ...]


class SlicePrompt(NamedTuple):
    """The prompts of one structure on one slice, in pixels of the slice.

    Attributes:
        box: x1 y1 x2 y2 at pixel edges; None: none.
        points: x y at pixel centres, (P, 2).
        point_labels: 1 in the structure, 0 outside, (P,).
    """

    box: Box | None
    points: np.ndarray
    point_labels: np.ndarray

    @property
    def names_structure(self) -> bool:
        """Whether the structure is on the slice: points outside of it alone state that it is not."""
        return self.box is not None or bool((self.point_labels == 1).any())


class PromptableAnnotator:
    """Turns boxes and points into label maps.

    Slices are resized so that their longer side is the model's, and padded with zeros, as SAM's are.

    Args:
        model: promptable model with a square input, frozen.
        propagation: when propagation to the neighbouring slices ends.
        max_bytes: largest size of the embeddings in memory.
        embedding_dir: folder of embeddings on disk; None: none are kept there.
        device: device of the model.

    Raises:
        ValueError: if the model's input is not square.
    """

    def __init__(
        self,
        model: PromptableSegmenter,
        propagation: PropagationSettings | None = None,
        max_bytes: float = 512e6,
        embedding_dir: str | Path | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        height, width = model.image_size
        if height != width:
            raise ValueError(f"Expected a promptable model with a square input, found {height} x {width}.")
        self.model, self.side, self.device = model, height, device
        self.propagation = propagation or PropagationSettings()
        prefix = f"{state_sha256(model)} {height}"
        files = None if embedding_dir is None else EmbeddingCache(embedding_dir, prefix)
        self.embeddings = BoundedEmbeddings(max_bytes, files)

    @torch.inference_mode()
    def annotate(self, image: SlicedImage, prompts: Sequence[Prompt]) -> Annotation:
        """Returns the label map of an image's prompts; where structures overlap, the larger logit decides.

        Args:
            image: the image.
            prompts: prompts within it; several of one structure on one slice act together, of boxes the last one.

        Raises:
            ValueError: if a box or the points of a prompt are not on one slice.
        """
        by_label = slice_prompts(image, prompts)
        _, rows, columns, depth = image.values.shape
        best = np.zeros((rows, columns, depth), np.float32)
        found = np.zeros((rows, columns, depth), np.uint16)
        reached: set[int] = set()
        for label, on_slices in by_label.items():
            for index, logits in self._structure(image, on_slices).items():
                wins = logits > best[..., index]
                best[..., index][wins], found[..., index][wins] = logits[wins], label
                reached.add(index)
        marked = {index for on_slices in by_label.values() for index in on_slices}
        return Annotation(image.view.from_slices(found), tuple(sorted(marked)), tuple(sorted(reached - marked)))

    def _structure(self, image: SlicedImage, on_slices: Mapping[int, SlicePrompt]) -> dict[int, np.ndarray]:
        """Returns the logits of one structure by slice."""
        found: dict[int, np.ndarray] = {}
        for index, directions in reach(list(on_slices), image.values.shape[-1]).items():
            prompt = on_slices[index]
            if not prompt.names_structure:
                continue
            found[index] = self._logits(image, index, prompt)
            for slices in directions:
                found |= propagate(found[index], slices, lambda i, box: self._in_box(image, i, box), self.propagation)
        return found

    def _in_box(self, image: SlicedImage, index: int, box: Box) -> np.ndarray:
        return self._logits(image, index, SlicePrompt(box, np.zeros((0, 2)), np.zeros(0)))

    def _logits(self, image: SlicedImage, index: int, prompt: SlicePrompt) -> np.ndarray:
        """Returns the logits (rows, columns) of one structure on a slice."""
        _, rows, columns, _ = image.values.shape
        scale = self.side / max(rows, columns)
        embedding = self.embeddings.get(f"{image.key} {index}", lambda: self._embed(image.values[..., index]))
        boxes = points = labels = None
        if prompt.box is not None:
            boxes = torch.tensor([prompt.box], dtype=torch.float32) * scale - 0.5  # from edges to centres of pixels
        if len(prompt.points):
            points = (torch.as_tensor(prompt.points, dtype=torch.float32)[None] + 0.5) * scale - 0.5
            labels = torch.as_tensor(prompt.point_labels)[None]
        logits = self.model.masks(embedding.to(self.device).float(), boxes, points=points, point_labels=labels)
        height, width = _resized(rows, columns, self.side)
        own = logits[None, :, :height, :width].float().cpu()
        return np.asarray(F.interpolate(own, (rows, columns), mode="bilinear", align_corners=False)[0, 0])

    def _embed(self, pixels: Tensor) -> Tensor:
        height, width = _resized(pixels.shape[1], pixels.shape[2], self.side)
        resized = F.interpolate(pixels[None], (height, width), mode="bilinear", align_corners=False, antialias=True)
        padded = F.pad(resized.clamp(0, 1), (0, self.side - width, 0, self.side - height))
        return self.model.embed(padded.to(self.device))[0]


def _resized(rows: int, columns: int, side: int) -> tuple[int, int]:
    scale = side / max(rows, columns)
    return max(1, round(rows * scale)), max(1, round(columns * scale))


def slice_prompts(image: SlicedImage, prompts: Sequence[Prompt]) -> dict[int, dict[int, SlicePrompt]]:
    """Returns the prompts by label value and slice, in pixels of the slices.

    Raises:
        ValueError: if a box or the points of one prompt are on several slices, where the slices are not those of the
            viewer.
    """
    found: dict[int, dict[int, SlicePrompt]] = {}
    for prompt in prompts:
        on_slices = found.setdefault(prompt.label, {})
        if prompt.box is not None:
            corners = image.view.positions(prompt.box)
            indices = np.rint(corners[:, 2]).astype(int)
            if indices[0] != indices[1]:
                raise ValueError(
                    f"Expected a box on one slice of {image.name}, found one from slice {indices.min()} to "
                    f"{indices.max()}; draw it in the plane in which the image was taken."
                )
            (y1, x1), (y2, x2) = corners[:, :2].min(axis=0) - 0.5, corners[:, :2].max(axis=0) + 0.5
            _, rows, columns, _ = image.values.shape
            box = max(x1, 0.0), max(y1, 0.0), min(x2, float(columns)), min(y2, float(rows))
            before = on_slices.get(int(indices[0]), SlicePrompt(None, np.zeros((0, 2)), np.zeros(0, int)))
            on_slices[int(indices[0])] = before._replace(box=box)
        for points, value in ((prompt.foreground, 1), (prompt.background, 0)):
            for row, column, index in image.view.positions(points):
                before = on_slices.get(round(index), SlicePrompt(None, np.zeros((0, 2)), np.zeros(0, int)))
                on_slices[round(index)] = before._replace(
                    points=np.vstack([before.points, [column, row]]),
                    point_labels=np.append(before.point_labels, value),
                )
    return found

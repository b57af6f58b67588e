"""Sources of soft targets: tuned teachers in several views, and label maps; their average is the target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tskd_monai.data.task import Task
from tskd_monai.distillation.teacher_targets import frozen
from tskd_monai.distillation.teachers import load_any_teacher
from tskd_monai.files.option_path import text_path
from tskd_monai.networks.teacher import TeacherNetwork, teacher_sha256

VIEWS = ((1.0, 0.0, 0.0), (1.1, 0.0, 0.0), (0.9, 0.0, 0.0), (1.0, 0.1, 0.1), (1.0, -0.1, -0.1))
"""Magnification, and shift along rows and columns in half sides, of each view; the first is the image itself."""


class TeacherSource:
    """Probabilities of a teacher, averaged over views of the image.

    Args:
        teacher: teacher on `device`; frozen.
        views: how many of `VIEWS` are averaged.
        mirror: whether each view is also mirrored left to right, for structures that look the same mirrored.
        device: device of the teacher.

    Raises:
        ValueError: when there are not so many views.
    """

    def __init__(
        self, teacher: TeacherNetwork, views: int = 1, mirror: bool = False, device: torch.device | str = "cpu"
    ) -> None:
        if not 1 <= views <= len(VIEWS):
            raise ValueError(f"Expected --views from 1 to {len(VIEWS)}, found {views}.")
        self.teacher, self.views, self.mirror, self.device = frozen(teacher), views, mirror, device
        self.embed_dim = int(teacher.embed_dim)
        self.sha256 = teacher_sha256(teacher)

    @property
    def record(self) -> dict[str, Any]:
        """What the probabilities depend on, as JSON."""
        return {"kind": "teacher", "sha256": self.sha256, "views": self.views, "mirror": self.mirror}

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Returns probabilities (B, K, H, W) and the features (B, E, h, w) of the first view, on the CPU.

        Args:
            images: (B, C, H, W) in [0, 1].
        """
        images = images.to(self.device)
        probabilities, features = self._predicted(images)
        if self.views == 1 and not self.mirror:
            return probabilities.cpu(), features.cpu()
        total, weight = torch.zeros_like(probabilities), torch.zeros_like(probabilities[:, :1])
        for view in VIEWS[: self.views]:
            moved = probabilities if view == VIEWS[0] else self._predicted(move(images, view))[0]
            if self.mirror:
                flipped = self._predicted(move(images, view).flip(-1))[0].flip(-1)
                moved = (moved + flipped) / 2
            total += move_back(moved, view)
            weight += move_back(torch.ones_like(weight), view)
        return (total / weight).cpu(), features.cpu()

    def _predicted(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits, features = self.teacher.forward_with_embeddings(images)
        if logits is None:
            raise ValueError("Expected a teacher with classes in --teacher_dirs, found one with features only.")
        return F.softmax(logits.float(), dim=1), features


def move(maps: Tensor, view: tuple[float, float, float]) -> Tensor:
    """Returns a view of maps (B, C, H, W): magnified about the centre, then shifted; zeros beyond the image."""
    scale, down, right = view
    return _resampled(maps, 1 / scale, -right / scale, -down / scale)


def move_back(maps: Tensor, view: tuple[float, float, float]) -> Tensor:
    """Returns maps (B, C, H, W) of a view on the pixels of the image; zeros where the view does not reach."""
    scale, down, right = view
    return _resampled(maps, scale, right, down)


def _resampled(maps: Tensor, factor: float, x: float, y: float) -> Tensor:
    """Returns maps at `factor * position + (x, y)`, bilinearly; positions are -1 to 1 between the edges."""
    if (factor, x, y) == (1.0, 0.0, 0.0):
        return maps
    theta = torch.tensor([[factor, 0.0, x], [0.0, factor, y]], device=maps.device, dtype=maps.dtype)
    grid = F.affine_grid(theta.expand(len(maps), 2, 3), list(maps.shape), align_corners=False)
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def label_probabilities(classes: Tensor, num_classes: int, confidence: float) -> Tensor:
    """Returns probabilities (B, K, H, W): `confidence` for the class of the map, the rest equally for the others.

    Args:
        classes: class indices (B, 1, H, W).
        num_classes: classes K, background included.
        confidence: probability of the map's class, above 1 / K and up to 1.
    """
    one_hot = F.one_hot(classes[:, 0].long(), num_classes).movedim(-1, 1).float()
    return one_hot * confidence + (1 - one_hot) * ((1 - confidence) / (num_classes - 1))


@dataclass(frozen=True)
class LabelMaps:
    """A folder of label maps as a source.

    Attributes:
        folder: folder of the files.
        confidence: probability of a map's class.
        sha256: hash of the content of all maps that are used.
    """

    folder: Path
    confidence: float
    sha256: str

    @property
    def record(self) -> dict[str, Any]:
        """What the probabilities depend on, as JSON."""
        return {"kind": "label_maps", "sha256": self.sha256, "confidence": self.confidence}


class TargetSources:
    """The average of the probabilities of all sources, with equal weights.

    Args:
        teachers: teachers; the first also gives the features.
        label_maps: a folder of label maps; None: none.
        num_classes: classes, background included.

    Raises:
        ValueError: when there is no source, or a teacher is given twice.
    """

    def __init__(self, teachers: Sequence[TeacherSource], label_maps: LabelMaps | None, num_classes: int) -> None:
        if not teachers and label_maps is None:
            raise ValueError("Expected a source of targets, found none; give --teacher_dirs or --label_maps.")
        hashes = [teacher.sha256 for teacher in teachers]
        if len(set(hashes)) < len(hashes):
            raise ValueError(
                "Expected different teachers in --teacher_dirs, found the same weights twice; name each folder once, "
                "and train each teacher with another seed."
            )
        self.teachers, self.label_maps, self.num_classes = list(teachers), label_maps, num_classes

    @property
    def record(self) -> list[dict[str, Any]]:
        """What the average depends on, as JSON."""
        maps = [] if self.label_maps is None else [self.label_maps.record]
        return [*(teacher.record for teacher in self.teachers), *maps]

    @property
    def feature_channels(self) -> int:
        """Channels of the first teacher's features; 0 without a teacher."""
        return self.teachers[0].embed_dim if self.teachers else 0

    def __call__(self, images: Tensor, classes: Sequence[Tensor | None]) -> tuple[Tensor, Tensor]:
        """Returns average probabilities (B, K, H, W) and features (B, E, h, w), one map of zeros without a teacher.

        Args:
            images: (B, C, H, W) in [0, 1].
            classes: class indices (1, H, W) of each image's label map; None: averaged over the teachers only.
        """
        total = torch.zeros(len(images), self.num_classes, *images.shape[-2:])
        features = torch.zeros(len(images), 1, 1, 1)
        for index, teacher in enumerate(self.teachers):
            probabilities, found = teacher(images)
            total += probabilities
            features = found if index == 0 else features
        count = torch.full((len(images), 1, 1, 1), float(len(self.teachers)))
        for index, map_ in enumerate(classes):
            if map_ is not None and self.label_maps is not None:
                total[index] += label_probabilities(map_[None], self.num_classes, self.label_maps.confidence)[0]
                count[index] += 1
        return total / count, features


def load_teacher_sources(
    folders: str | Sequence[str] | None,
    task: Task,
    encoder_weights: str | Path | None = None,
    views: int = 1,
    mirror: bool = False,
    device: torch.device | str = "cpu",
) -> list[TeacherSource]:
    """Returns the teachers of some folders.

    Args:
        folders: a folder of `teacher_lora` or a student bundle, or a list of them; None or an empty list: no teacher.
        task: task; a teacher of another task is refused.
        encoder_weights: current path of the foundation model's weights, if they have moved.
        views: see `TeacherSource`.
        mirror: see `TeacherSource`.
        device: device of the teachers.

    Raises:
        FileNotFoundError: if a folder or one of its files is missing.
        ValueError: if a teacher was made for another task, or a value is not a path.
    """
    listed = list(folders) if isinstance(folders, (list, tuple)) else [] if folders is None else [folders]
    flat = replace(task, neighbours=0)  # targets are made for single slices
    teachers = (load_any_teacher(text_path(folder, "teacher_dirs"), flat, encoder_weights) for folder in listed)
    return [TeacherSource(teacher.to(device), views, mirror, device) for teacher in teachers]


def check_confidence(confidence: float, num_classes: int) -> float:
    """Returns the probability of a label map's class.

    Raises:
        ValueError: when it is not above 1 / K and at most 1: another class would be as probable.
    """
    if not isinstance(confidence, (int, float)) or not 1 / num_classes < confidence <= 1:
        raise ValueError(f"Expected --label_confidence above {1 / num_classes:.2f} and up to 1, found {confidence!r}.")
    return float(confidence)


def describe(record: Mapping[str, Any]) -> str:
    """Returns a source in words, for a table or a message."""
    if record["kind"] == "label_maps":
        return f"label maps {record['sha256'][:8]} at {record['confidence']:g}"
    views = record["views"] * (2 if record["mirror"] else 1)
    return f"teacher {record['sha256'][:8]}, {views} view{'s' if views > 1 else ''}"

"""Targets of distillation: the teacher's predictions for the augmented images, computed or cached."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from monai.engines import PrepareBatch
from torch import Tensor, nn
from torch.nn import functional as F

from tskd_monai.data.neighbours import centre_slice
from tskd_monai.data.task import Task
from tskd_monai.distillation.target_cache import LEVELS
from tskd_monai.distillation.targets_folder import StoredTargets
from tskd_monai.networks.teacher import TeacherNetwork
from tskd_monai.transforms.coordinates import follow

Batch = Mapping[str, Tensor]
SMALLEST_PROBABILITY = 1e-6


def frozen(teacher: TeacherNetwork) -> TeacherNetwork:
    """Returns the teacher, frozen and in evaluation mode.

    Raises:
        TypeError: when it is not a network.
    """
    if not isinstance(teacher, nn.Module):
        raise TypeError(f"Expected a network as the teacher, found {type(teacher).__name__}.")
    return teacher.requires_grad_(False).eval()


def takes_neighbours(teacher: TeacherNetwork | StoredTargets) -> bool:
    """Returns whether a teacher takes a slice's neighbours too, which only a student of them as teacher does."""
    return getattr(teacher, "neighbours", 0) > 0


def teacher_targets(
    teacher: TeacherNetwork | StoredTargets, cache_dir: str | Path | None, task: Task | None = None
) -> PrepareBatch:
    """Returns the `PrepareBatch` of a distillation: cached targets, or the teacher's predictions in each step.

    Args:
        teacher: teacher on the device of the training run, or a targets folder.
        cache_dir: folder of cached targets, see `distillation_dataset`; None: no cache.
        task: task of the student; None: it has no neighbours.
    """
    if isinstance(teacher, StoredTargets) or cache_dir is not None:
        return CachedTargets()
    return TeacherTargets(teacher, None if task is None or takes_neighbours(teacher) else task.channels)


class TeacherTargets(PrepareBatch):
    """Runs the teacher on each augmented batch.

    Args:
        teacher: teacher, which is frozen and kept in evaluation mode.
        channels: channels of a slice, which the teacher sees without its neighbours; None: it sees all channels.
    """

    def __init__(self, teacher: TeacherNetwork, channels: int | None = None) -> None:
        self.teacher, self.channels = frozen(teacher), channels

    @torch.no_grad()
    def __call__(
        self,
        batchdata: Batch,
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns images (B, C, H, W) and the teacher's `logits` (B, K, H, W), if any, and `features` (B, E, h, w)."""
        images = torch.as_tensor(batchdata["image"]).to(device=device, non_blocking=non_blocking, **kwargs)
        seen = images if self.channels is None else centre_slice(images, self.channels)
        logits, features = self.teacher.forward_with_embeddings(seen)
        return images, {"features": features} if logits is None else {"logits": logits, "features": features}


class CachedTargets(PrepareBatch):
    """Warps targets, cached for the images before augmentation, with the coordinates of the augmented images."""

    @torch.no_grad()
    def __call__(
        self,
        batchdata: Batch,
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the same as `TeacherTargets`; outside of the original image the class is background.

        Args:
            batchdata: `image` (B, C, H, W), `coordinates` (B, 3, H, W), and for the image before augmentation
                `foreground` (B, K - 1, H, W) and `features` (B, E, h, w), see `QuantisedTarget`.
            device: device that all tensors are moved to.
            non_blocking: whether copies to a GPU are asynchronous.
            kwargs: further arguments of `Tensor.to`.
        """
        images, coordinates, roots, features = (
            torch.as_tensor(batchdata[key]).to(device=device, non_blocking=non_blocking, **kwargs)
            for key in ("image", "coordinates", "foreground", "features")
        )
        coarse = F.adaptive_avg_pool2d(coordinates, (features.shape[-2], features.shape[-1]))
        targets = {"features": follow(coarse, features.float(), padding_mode="border")}
        if roots.shape[1]:
            targets["logits"] = _log_probabilities(follow(coordinates, (roots.float() / LEVELS) ** 2))
        return images, targets


def _log_probabilities(foreground: Tensor) -> Tensor:
    """Returns logits (B, K, H, W) with the given probabilities of the foreground classes (B, K - 1, H, W)."""
    background = (1 - foreground.sum(dim=1, keepdim=True)).clamp_min(0)
    return torch.cat([background, foreground], dim=1).clamp_min(SMALLEST_PROBABILITY).log()

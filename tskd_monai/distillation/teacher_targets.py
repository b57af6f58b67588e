"""What the student learns from: the teacher's answer to the very image that the student sees."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from monai.engines import PrepareBatch
from torch import Tensor, nn
from torch.nn import functional as F

from tskd_monai.distillation.target_cache import LEVELS
from tskd_monai.networks.teacher import TeacherNetwork
from tskd_monai.transforms.coordinates import follow

Batch = Mapping[str, Tensor]
SMALLEST_PROBABILITY = 1e-6


def frozen(teacher: TeacherNetwork) -> TeacherNetwork:
    """Returns the teacher, without gradients and in eval mode."""
    if not isinstance(teacher, nn.Module):
        raise TypeError(f"Expected a network as the teacher, found {type(teacher).__name__}.")
    return teacher.requires_grad_(False).eval()


def teacher_targets(teacher: TeacherNetwork, cache_dir: str | Path | None) -> PrepareBatch:
    """Returns what shapes batches: from answers that `transfer_dataset` took from the cache, or asking the teacher."""
    return TeacherTargets(teacher) if cache_dir is None else CachedTargets()


class TeacherTargets(PrepareBatch):
    """Asks the teacher about each batch as it comes, augmented as it is.

    Args:
        teacher: frozen and kept in eval mode.
    """

    def __init__(self, teacher: TeacherNetwork) -> None:
        self.teacher = frozen(teacher)

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
        logits, features = self.teacher.forward_with_embeddings(images)
        return images, {"features": features} if logits is None else {"logits": logits, "features": features}


class CachedTargets(PrepareBatch):
    """Takes the teacher's answers to the images before augmentation and moves them as the images were moved."""

    @torch.no_grad()
    def __call__(
        self,
        batchdata: Batch,
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns what `TeacherTargets` does; where the augmented image shows nothing, the class is background.

        Args:
            batchdata: `image` (B, C, H, W), `coordinates` (B, 3, H, W), and of the image before augmentation
                `foreground` (B, K - 1, H, W) and `features` (B, E, h, w), see `CachedAnswer`.
            device: that all are moved to.
            non_blocking: for the copies to a GPU.
            kwargs: of `Tensor.to`.
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
    """Returns logits (B, K, H, W) that give these probabilities of the foreground classes (B, K - 1, H, W)."""
    background = (1 - foreground.sum(dim=1, keepdim=True)).clamp_min(0)
    return torch.cat([background, foreground], dim=1).clamp_min(SMALLEST_PROBABILITY).log()

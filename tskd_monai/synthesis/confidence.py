"""How sure a teacher is of its own answer on an image."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch


def class_mean_confidence(logits: torch.Tensor) -> torch.Tensor:
    """Returns the confidence of each image, (B,), in (0, 1].

    It is the mean probability of the predicted class, averaged within each class that is predicted and then over
    these classes, so that a small organ counts as much as the background.

    Args:
        logits: (B, num_classes, H, W).
    """
    probability, predicted = logits.softmax(1).max(1)
    classes = torch.nn.functional.one_hot(predicted, logits.shape[1]).flatten(1, 2).float()
    pixels = classes.sum(1)
    sums = torch.einsum("bp,bpk->bk", probability.flatten(1), classes)
    means = torch.where(pixels > 0, sums / pixels.clamp(min=1), 0.0)
    return means.sum(1) / (pixels > 0).sum(1)


@torch.inference_mode()
def teacher_confidence(
    teacher: Callable[[torch.Tensor], torch.Tensor],
    images: torch.Tensor,
    batch_size: int = 8,
    device: str | torch.device = "cpu",
) -> np.ndarray:
    """Returns the confidence of a teacher in each image, (N,).

    Args:
        teacher: maps images (B, C, H, W) in [0, 1] to logits; on `device`, in evaluation mode.
        images: (N, C, H, W).
        batch_size: of the teacher's calls.
        device: that the teacher is on.
    """
    batches = images.split(batch_size)
    return torch.cat([class_mean_confidence(teacher(batch.to(device)).float()).cpu() for batch in batches]).numpy()

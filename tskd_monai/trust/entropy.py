"""Entropy of the network's prediction inside each structure that it predicts."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def mean_entropy(logits: Tensor, labels: Tensor) -> list[float | None]:
    """Returns the mean entropy over the pixels of each class, as a fraction of the largest; None without a pixel.

    Args:
        logits: (B, K, H, W).
        labels: class of each pixel, (B, H, W).
    """
    classes = logits.shape[1]
    log_p = torch.log_softmax(logits.float(), dim=1)
    entropy = -(log_p.exp() * log_p).sum(dim=1) / math.log(classes)
    flat = labels.flatten().long()
    sums = torch.bincount(flat, entropy.flatten(), minlength=classes).tolist()
    counts = torch.bincount(flat, minlength=classes).tolist()
    return [total / count if count else None for total, count in zip(sums, counts, strict=True)]

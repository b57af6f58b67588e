"""Dice and cross-entropy for partly labelled images, whose background may hold structures that were not drawn.

A label map of class indices states such voxels by values below 0: -m is a voxel of the background or of one of the
classes in the bit mask m, bit k - 1 for class k. Thus 0 stays the certain background, also where a transform pads, and
a voxel to ignore is one that may be any class. `tskd_monai.data.drawn_structures` writes these values.
"""

from __future__ import annotations

import torch
from monai.losses import DiceCELoss, DiceLoss
from monai.networks import one_hot
from torch import Tensor, nn


def may_be(label: Tensor, index: int) -> Tensor:
    """Returns the voxels, bool, of which it is unknown whether they are a foreground class.

    Args:
        label: class indices, and below 0 what a voxel may be; any shape.
        index: class.
    """
    return ((-label.clamp(max=0)).long() >> (index - 1)) & 1 == 1


def is_measured(label: Tensor, index: int) -> bool:
    """Returns whether a label map shows a class, or shows that it is absent; else nothing about it can be measured."""
    return bool((label == index).any()) or not bool(may_be(label, index).any())


class MarginalDiceCELoss(nn.Module):
    r"""Dice over the foreground classes plus cross-entropy; marginal where a voxel may be one of several classes.

    .. math:: L = -\frac{1}{|V|} \sum_{v \in V} \log \sum_{c \in C_v} p_{vc}
              + \frac{1}{|M|} \sum_{c \in M} \left(1 - \frac{2 \sum_{v \in V_c} p_{vc} y_{vc}}
              {\sum_{v \in V_c} p_{vc} + y_{vc}}\right)

    C_v are the classes that voxel v may be, V the voxels that may not be any class, V_c the voxels of which it is known
    whether they are class c, and M the classes that the batch shows, or shows to be absent. For completely labelled
    images this is MONAI's `DiceCELoss(include_background=False, softmax=True, batch=True)`.

    Source: Shi, Xiao, Chen and Zhou, Marginal loss and exclusion loss for partially supervised multi-organ
    segmentation, Medical Image Analysis 70, 2021; without the exclusion loss, which the cross-entropy of voxels of
    other drawn classes contains. Voxels to ignore as in nnU-Net: left out of both terms.
    """

    def __init__(self) -> None:
        super().__init__()
        self.complete = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)
        self.dice = DiceLoss(include_background=False, batch=True, reduction="none")

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Returns the loss, a scalar; 0 if every voxel is ignored.

        Args:
            logits: (B, K, H, W).
            label: class indices (B, 1, H, W), and below 0 what a voxel may be.
        """
        if not bool((label < 0).any()):
            return self.complete(logits, label)
        classes = one_hot(label.clamp(min=0), logits.shape[1])
        unknown = torch.zeros_like(classes, dtype=torch.bool)
        for index in range(1, logits.shape[1]):
            unknown[:, index] = may_be(label[:, 0], index)
        return self._cross_entropy(logits, classes.bool() | unknown) + self._dice(logits, classes, unknown)

    @staticmethod
    def _cross_entropy(logits: Tensor, candidates: Tensor) -> Tensor:
        of_candidates = logits.masked_fill(~candidates, -torch.inf).logsumexp(dim=1)
        known = ~candidates.all(dim=1)
        return ((logits.logsumexp(dim=1) - of_candidates) * known).sum() / known.sum().clamp(min=1)

    def _dice(self, logits: Tensor, classes: Tensor, unknown: Tensor) -> Tensor:
        known = logits.softmax(dim=1).masked_fill(unknown, 0)
        by_class = self.dice(known, classes).flatten()
        over = (0, *range(2, logits.dim()))
        measured = (classes.bool().any(dim=over) | ~unknown.any(dim=over))[1:]
        return (by_class * measured).sum() / measured.sum().clamp(min=1)

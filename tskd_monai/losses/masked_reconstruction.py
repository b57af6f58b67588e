"""Reconstruction of masked patches."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional as F

EPSILON = 1e-6


class MaskedReconstructionLoss(nn.Module):
    r"""Mean squared error over masked patches, each target patch normalised by its own mean and standard deviation.

    .. math:: L = \frac{1}{|M|} \sum_{p \in M} \frac{1}{n} \left\| \hat x_p -
              \frac{x_p - \mu_p}{\sqrt{\sigma_p^2 + \epsilon}} \right\|^2

    with M the masked patches of the batch and n the number of values in a patch. Visible patches are ignored.

    Source: He et al. 2022.
    """

    def forward(self, outputs: Mapping[str, torch.Tensor], targets: None = None) -> torch.Tensor:
        """Returns the loss, a scalar.

        Args:
            outputs: `reconstruction` and `images` (B, C, H, W), and the `mask` (B, 1, h, w), 1 where masked.
            targets: None, part of the trainer's interface.

        Raises:
            ValueError: when no patch is masked.
        """
        mask = outputs["mask"].flatten(1).bool()
        if not mask.any():
            raise ValueError("Expected at least one masked patch, found a mask of zeros.")
        sides = tuple(
            size // count for size, count in zip(outputs["images"].shape[-2:], outputs["mask"].shape[-2:], strict=True)
        )
        target = F.unfold(outputs["images"], sides, stride=sides).transpose(1, 2)[mask]
        predicted = F.unfold(outputs["reconstruction"], sides, stride=sides).transpose(1, 2)[mask]
        variance, mean = torch.var_mean(target.detach(), dim=1, keepdim=True)
        return F.mse_loss(predicted, (target.detach() - mean) / (variance + EPSILON).sqrt())

"""What is optimised, and how fast."""

from __future__ import annotations

from monai.optimizers import WarmupCosineSchedule
from torch import nn
from torch.optim import Optimizer

WARMUP_SHARE = 0.05


def trainable_parameters(network: nn.Module) -> list[nn.Parameter]:
    """Returns the parameters that require a gradient."""
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def warmup_cosine(optimizer: Optimizer, steps: int) -> WarmupCosineSchedule:
    """Returns a schedule that rises linearly over the first 5 % of the steps and falls to 0 as a half cosine."""
    return WarmupCosineSchedule(optimizer, warmup_steps=max(1, round(WARMUP_SHARE * steps)), t_total=steps)

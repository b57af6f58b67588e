"""Contrastive loss between two views of each image and the other images of a batch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional as F


class SymmetricInfoNCELoss(nn.Module):
    r"""Cross-entropy of identifying an image's other view among those of the whole batch, in both directions.

    .. math:: L = \tau \sum_{(a, b) \in \{(1, 2), (2, 1)\}} \frac{2}{B} \sum_i
              - \log \frac{\exp(q^a_i \cdot k^b_i / \tau)}{\sum_j \exp(q^a_i \cdot k^b_j / \tau)}

    with queries q and keys k of unit length. There is no queue.

    Source: Chen et al. 2021 (MoCo v3), the factor :math:`2 \tau` included.

    Args:
        temperature: :math:`\tau`, above 0.
    """

    def __init__(self, temperature: float = 0.2) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"Expected a temperature above 0, found {temperature}.")
        self.temperature = temperature

    def forward(self, outputs: Mapping[str, torch.Tensor], targets: None = None) -> torch.Tensor:
        """Returns the loss, a scalar: 0 for a batch of one image, which has no negatives.

        Args:
            outputs: `queries` and `keys` (B, 2, D) of the two views; the keys are detached.
            targets: None, part of the trainer's interface.
        """
        queries = F.normalize(outputs["queries"], dim=-1)
        keys = F.normalize(outputs["keys"].detach(), dim=-1)
        first = self._one_way(queries[:, 0], keys[:, 1])
        return first + self._one_way(queries[:, 1], keys[:, 0])

    def _one_way(self, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        logits = queries @ keys.T / self.temperature
        own = torch.arange(len(logits), device=logits.device)
        return 2 * self.temperature * F.cross_entropy(logits, own)

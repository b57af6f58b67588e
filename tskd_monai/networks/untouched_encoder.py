"""A foundation model's encoder as it was published, for task-agnostic distillation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from tskd_monai.networks.encoder_records import Encoder
from tskd_monai.networks.pretrained import build_encoder


class UntouchedEncoder(nn.Module):
    """A `TeacherNetwork` that knows representations alone.

    Args:
        encoder: maps images in [0, 1] to an ``EncoderOutput``.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.embed_dim = int(encoder.embed_dim)

    def forward_with_embeddings(self, images: Tensor) -> tuple[None, Tensor]:
        """Returns no logits, and the image embeddings (B, embed_dim, H / 16, W / 16) of (B, 1 | 3, H, W) in [0, 1]."""
        return None, self.encoder(images).image_embeddings


def untouched_teacher(
    encoder: str, encoder_weights: str | Path | None, image_size: int | Sequence[int]
) -> UntouchedEncoder:
    """Returns a published encoder at the image size of a task, in evaluation mode and frozen.

    Args:
        encoder: name of its record.
        encoder_weights: file, Hugging Face folder or hub id; None: the shipped ones.
        image_size: side or (H, W) in pixels.

    Raises:
        ValueError: on an unknown name or weights that do not fit.
        FileNotFoundError: when the weights are not there.
    """
    teacher = UntouchedEncoder(build_encoder(encoder, encoder_weights, image_size))
    teacher.requires_grad_(False)
    return teacher.eval()

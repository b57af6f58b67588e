"""A vision foundation model as a segmenter: an image encoder and a decoder."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from tskd_monai.networks.encoder_records import Encoder
from tskd_monai.networks.light_decoder import LightDecoder
from tskd_monai.networks.sam_mask_decoder import SamMaskDecoder


class VfmSegmenter(nn.Module):
    """Teacher ``f_T = D_T o E_T``.

    Args:
        encoder: maps images in [0, 1] to an ``EncoderOutput``.
        decoder: maps that and the normalised images to logits.
        spec: what the segmenter was built from, kept for saving; see ``tskd_monai.networks.teacher_folder``.

    Attributes:
        saved_sha256: of its weights as saved, once LoRA is merged into them; ``None`` before.
    """

    saved_sha256: str | None = None

    def __init__(self, encoder: Encoder, decoder: LightDecoder | SamMaskDecoder, spec: Any = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.spec = spec
        self.embed_dim = int(encoder.embed_dim)

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits ``(B, num_classes, H, W)`` for images ``(B, 1 | 3, H, W)`` in [0, 1]."""
        return self.forward_with_embeddings(images)[0]

    def forward_with_embeddings(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the logits and the image embeddings, the two things a student learns from.

        Args:
            images: ``(B, 1 | 3, H, W)`` in [0, 1], of the encoder's image size.

        Returns:
            Logits ``(B, num_classes, H, W)`` and image embeddings ``(B, embed_dim, H / 16, W / 16)``.

        Raises:
            ValueError: on another image size or number of channels.
        """
        encoded = self.encoder(images)
        logits = self.decoder(encoded, self.encoder.normalise(images))
        return logits, encoded.image_embeddings

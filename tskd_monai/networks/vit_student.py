"""A student that is a small vision transformer with the light decoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from tskd_monai.networks.encoders import image_size_hw
from tskd_monai.networks.features import NetworkPart
from tskd_monai.networks.light_decoder import LightDecoder
from tskd_monai.networks.plain_vit import MEAN, PRETRAINING_SIZE, STD, TINY, PlainVitArchitecture, PlainVitEncoder


class VitStudent(nn.Module):
    """Segments images of one size with a plain ViT.

    Args:
        encoder: maps images in [0, 1] to image embeddings.
        decoder: maps the embeddings and the normalised images to logits.
        record: name of the record in ``encoder_records`` whose published weights fit the encoder.
    """

    def __init__(self, encoder: PlainVitEncoder, decoder: LightDecoder, record: str) -> None:
        super().__init__()
        self.encoder, self.decoder, self.record = encoder, decoder, record
        self.image_embeddings = nn.Identity()  # named layer whose output FeatureProjection uses

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits (B, K, H, W) of images (B, 1 | 3, H, W) in [0, 1].

        Raises:
            ValueError: when the image size differs from that of the network.
        """
        encoded = self.encoder(images)
        encoded = encoded._replace(image_embeddings=self.image_embeddings(encoded.image_embeddings))
        return self.decoder(encoded, self.encoder.normalise(images))


class ImageEmbeddings(nn.Module):
    """An encoder that returns only its image embeddings.

    Args:
        image_encoder: the encoder, its weights shared.
    """

    def __init__(self, image_encoder: PlainVitEncoder) -> None:
        super().__init__()
        self.image_encoder = image_encoder

    def forward(self, images: Tensor) -> Tensor:
        """Returns (B, E, H / 16, W / 16) of images (B, 1 | 3, H, W) in [0, 1]."""
        return self.image_encoder(images).image_embeddings


@dataclass(frozen=True)
class CompactViT:
    """Size of a student that is a plain ViT with the light decoder.

    Attributes:
        record: name of the record in ``encoder_records`` whose published weights fit the encoder.
        architecture: dimensions of the encoder.
        feature_layer: name of the layer whose output, the image embeddings, is distilled.
    """

    record: str
    architecture: PlainVitArchitecture
    feature_layer: str = "image_embeddings"

    @property
    def feature_channels(self) -> int:
        """Channels of the image embeddings."""
        return self.architecture.hidden_size

    def build(self, in_channels: int, out_channels: int, image_size: tuple[int, int]) -> VitStudent:
        """Returns the network with random weights, images (B, C, H, W) to logits (B, K, H, W).

        Args:
            in_channels: number of input channels C, 1 or 3.
            out_channels: number of classes K, background included.
            image_size: (H, W) in pixels, the only size that the network accepts.

        Raises:
            ValueError: when there are other channels, or a side is not a multiple of 16 up to 1024.
        """
        if in_channels not in (1, 3):
            raise ValueError(
                f"Expected images of 1 or 3 channels for a ViT, found in_channels={in_channels}; with neighbouring "
                "slices, only 1 on each side of grey images fits."
            )
        size = image_size_hw(image_size)
        encoder = self.architecture.build(PRETRAINING_SIZE, MEAN, STD)
        encoder.resize_to(size)
        decoder = LightDecoder(encoder.feature_channels, encoder.embed_dim, out_channels)
        return VitStudent(encoder, decoder, self.record)

    def encoder(self, network: nn.Module) -> NetworkPart:
        """Returns the image encoder, images to (B, F, h, w)."""
        return NetworkPart(ImageEmbeddings(vit_of(network).encoder), self.feature_channels)


def vit_of(network: nn.Module) -> VitStudent:
    """Returns the network if it is a ViT student.

    Raises:
        ValueError: when the network is not a ViT student.
    """
    if not isinstance(network, VitStudent):
        raise ValueError(f"Expected the student vit_tiny, found a {type(network).__name__}.")
    return network


SIZES: Mapping[str, CompactViT] = {"vit_tiny": CompactViT("vit_tiny_patch16", TINY)}  # 5.9 M parameters

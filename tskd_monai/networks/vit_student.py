"""A small vision transformer with the light decoder as a student."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from tskd_monai.networks.encoder_records import encoder_record
from tskd_monai.networks.encoders import image_size_hw
from tskd_monai.networks.features import NetworkPart
from tskd_monai.networks.light_decoder import LightDecoder
from tskd_monai.networks.plain_vit import PlainVitArchitecture, PlainVitEncoder
from tskd_monai.networks.pretrained import build_encoder
from tskd_monai.networks.weights_file import load_strictly


class VitStudent(nn.Module):
    """Segments images of one size with a plain ViT.

    Args:
        encoder: maps images in [0, 1] to image embeddings.
        decoder: maps those and the normalised images to logits.
        record: name of the encoder's record, whose published weights fit it.
    """

    def __init__(self, encoder: PlainVitEncoder, decoder: LightDecoder, record: str) -> None:
        super().__init__()
        self.encoder, self.decoder, self.record = encoder, decoder, record
        self.image_embeddings = nn.Identity()  # a layer for FeatureProjection to take the embeddings from

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits (B, K, H, W) of images (B, 1 | 3, H, W) in [0, 1].

        Raises:
            ValueError: on images of another size than the network was built for.
        """
        encoded = self.encoder(images)
        encoded = encoded._replace(image_embeddings=self.image_embeddings(encoded.image_embeddings))
        return self.decoder(encoded, self.encoder.normalise(images))


class ImageEmbeddings(nn.Module):
    """An encoder's image embeddings alone.

    Args:
        image_encoder: whose weights these are.
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
        record: name of the encoder's record, which gives its numbers and how images are normalised.
        feature_channels: channels of the image embeddings, which are distilled.
    """

    record: str
    feature_channels: int
    feature_layer: str = "image_embeddings"

    def build(self, in_channels: int, out_channels: int, image_size: tuple[int, int]) -> VitStudent:
        """Returns the network with random weights, images (B, C, H, W) to logits (B, K, H, W).

        Args:
            in_channels: C, 1 or 3.
            out_channels: K, with background.
            image_size: (H, W) in pixels, the only size that the network takes.

        Raises:
            ValueError: on other channels, or sides that are no multiples of 16 up to 1024.
        """
        if in_channels not in (1, 3):
            raise ValueError(f"Expected images of 1 or 3 channels for a ViT, found in_channels={in_channels}.")
        record = encoder_record(self.record)
        if not isinstance(record.architecture, PlainVitArchitecture):
            raise ValueError(f"Expected the record of a plain ViT, found {self.record}.")
        size = image_size_hw(image_size)
        encoder = record.architecture.build(record.image_size, record.mean, record.std)
        encoder.resize_to(size)
        decoder = LightDecoder(encoder.feature_channels, encoder.embed_dim, out_channels)
        return VitStudent(encoder, decoder, self.record)

    def encoder(self, network: nn.Module) -> NetworkPart:
        """Returns the image encoder, images to (B, F, h, w)."""
        return NetworkPart(ImageEmbeddings(vit_of(network).encoder), self.feature_channels)


def vit_of(network: nn.Module) -> VitStudent:
    """Returns the network, when it is a ViT.

    Raises:
        ValueError: when it is none.
    """
    if not isinstance(network, VitStudent):
        raise ValueError(f"Expected the student vit_tiny, found a {type(network).__name__}.")
    return network


def load_encoder_weights(network: nn.Module, weights: str | Path) -> None:
    """Puts published weights into a ViT student's encoder, strictly; positions are interpolated to its image size.

    Args:
        network: the student.
        weights: a file with timm's names, a Hugging Face folder or a hub id.

    Raises:
        ValueError: when the student is no ViT, or the weights do not fit it.
        FileNotFoundError: when the weights are not there.
    """
    if not isinstance(network, VitStudent):
        raise ValueError(
            f"Expected the student vit_tiny for --encoder_weights, found a {type(network).__name__}, which has no "
            "published weights; leave --encoder_weights out."
        )
    published = build_encoder(network.record, weights, network.encoder.image_size)
    load_strictly(network.encoder, published.state_dict(), weights)

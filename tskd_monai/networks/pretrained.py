"""The pre-trained encoders that can be a teacher's backbone, and how one is built and loaded.

Weights are never downloaded unless a hub id is passed; apart from the small demo encoder none are shipped.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tskd_monai.networks.encoders import image_size_hw
from tskd_monai.networks.plain_vit import PlainVitArchitecture, PlainVitEncoder
from tskd_monai.networks.sam_encoder import SamArchitecture, SamEncoder
from tskd_monai.networks.sam_names import encoder_entries
from tskd_monai.networks.weights_file import file_sha256, load_strictly, locate_weights, read_weights

__all__ = [
    "ENCODERS",
    "RANDOM",
    "SHIPPED",
    "EncoderRecord",
    "build_encoder",
    "encoder_record",
    "file_sha256",
    "shipped_weights",
    "weights_path",
]

logger = logging.getLogger(__name__)

RANDOM = "random"
SHIPPED = "shipped"
CLASSIFIER_ENTRIES = ("head.weight", "head.bias")

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class EncoderRecord:
    """What is known about one set of pre-trained weights.

    Attributes:
        name: how a config calls it.
        architecture: numbers of the network.
        image_size: side in pixels the weights were trained at.
        mean: per colour channel, for input in [0, 1].
        std: per colour channel.
        licence: of the weights.
        source: hub id or address the weights come from.
        shipped: path of the weights inside a checkout of this project, if they are part of it.
    """

    name: str
    architecture: SamArchitecture | PlainVitArchitecture
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    licence: str
    source: str
    shipped: str | None = None


def _sam(
    name: str, hidden_size: int, depth: int, num_heads: int, global_layers: tuple[int, ...], source: str
) -> EncoderRecord:
    architecture = SamArchitecture(hidden_size, depth, num_heads, global_layers)
    return EncoderRecord(name, architecture, 1024, IMAGENET_MEAN, IMAGENET_STD, "Apache-2.0", source)


def _plain_vit(name: str, hidden_size: int, num_heads: int, source: str) -> EncoderRecord:
    return EncoderRecord(name, PlainVitArchitecture(hidden_size, 12, num_heads), 224, HALF, HALF, "Apache-2.0", source)


_RECORDS = (
    _sam("sam_vit_base", 768, 12, 12, (2, 5, 8, 11), "facebook/sam-vit-base"),
    _sam("sam_vit_large", 1024, 24, 16, (5, 11, 17, 23), "facebook/sam-vit-large"),
    _sam("sam_vit_huge", 1280, 32, 16, (7, 15, 23, 31), "facebook/sam-vit-huge"),
    # MedSAM feeds min-max scaled images to the encoder without subtracting a mean.
    EncoderRecord(
        name="medsam_vit_base",
        architecture=SamArchitecture(768, 12, 12, (2, 5, 8, 11)),
        image_size=1024,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        licence="Apache-2.0",
        source="https://github.com/bowang-lab/MedSAM (medsam_vit_b.pth)",
    ),
    _plain_vit("vit_tiny_patch16", 192, 3, "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"),
    _plain_vit("vit_small_patch16", 384, 6, "timm/vit_small_patch16_224.augreg_in21k_ft_in1k"),
    _plain_vit("vit_base_patch16", 768, 12, "timm/vit_base_patch16_224.augreg_in21k_ft_in1k"),
    # SAM's architecture in small, pre-trained on procedural images: shows the method without a download.
    EncoderRecord(
        name="sam_demo",
        architecture=SamArchitecture(128, 6, 4, (2, 5), window_size=4, embed_dim=64),
        image_size=128,
        mean=HALF,
        std=(0.25, 0.25, 0.25),
        licence="Apache-2.0",
        source="scripts/pretrain_demo_encoder.py",
        shipped="bundles/teacher_lora/models/demo_sam_encoder.safetensors",
    ),
)
ENCODERS: Mapping[str, EncoderRecord] = {record.name: record for record in _RECORDS}


def encoder_record(name: str) -> EncoderRecord:
    """Returns the record of a pre-trained encoder.

    Raises:
        ValueError: on an unknown name; lists the known ones.
    """
    if name not in ENCODERS:
        raise ValueError(f"Expected an encoder out of {', '.join(ENCODERS)}, found {name!r}.")
    return ENCODERS[name]


def shipped_weights(name: str) -> Path:
    """Returns the path of the weights that come with this project.

    Raises:
        ValueError: if the encoder's weights are not part of the project; says what to pass.
        FileNotFoundError: if the file is not beside the package, as in an installation without the bundles.
    """
    record = encoder_record(name)
    if record.shipped is None:
        raise ValueError(
            f"Weights of {name} are not shipped: pass encoder weights (a file, a Hugging Face folder or a hub id; "
            f"published at {record.source}), or 'random' for an untrained control."
        )
    path = Path(__file__).resolve().parents[2] / record.shipped
    if not path.is_file():
        raise FileNotFoundError(
            f"Expected the shipped weights of {name} at {path}, found none; work in a checkout of the project, or "
            f"pass the path of {path.name}."
        )
    return path


def build_encoder(
    name: str, weights: str | Path | None, image_size: int | Sequence[int], *, seed: int = 0
) -> SamEncoder | PlainVitEncoder:
    """Builds an encoder with its pre-trained weights at the image size of a task.

    Args:
        name: key of :data:`ENCODERS`.
        weights: file, Hugging Face folder or hub id; ``None`` or ``"shipped"`` for the shipped file;
            ``"random"`` for an untrained encoder as a control.
        image_size: side or ``(H, W)`` in pixels, multiples of 16; positions are interpolated to it.
        seed: of the random weights; without effect on loaded ones.

    Raises:
        ValueError: on an unknown name, weights that do not fit strictly, a bad image size, or ``None`` where no
            weights are shipped.
        FileNotFoundError: if the weights are not there.
    """
    record = encoder_record(name)
    size = image_size_hw(image_size)
    path = weights_path(name, weights)
    # Building draws random numbers in either case; the caller's generator is left as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = _build(record)
        if path is None:
            encoder.initialise_randomly()
    if path is not None:
        load_strictly(encoder.backbone, _backbone_entries(record, read_weights(path), path), path)
        logger.info("Loaded %s from %s.", name, path.name)
    encoder.resize_to(size)
    return encoder


def weights_path(name: str, weights: str | Path | None) -> Path | None:
    """Returns the weights file that :func:`build_encoder` would read, or ``None`` for random weights.

    Raises:
        ValueError: if ``weights`` is ``None`` or ``"shipped"`` and none are shipped.
        FileNotFoundError: if there is no such file.
    """
    if weights == RANDOM:
        return None
    return shipped_weights(name) if weights is None or weights == SHIPPED else locate_weights(weights)


def _build(record: EncoderRecord) -> SamEncoder | PlainVitEncoder:
    if isinstance(record.architecture, SamArchitecture):
        return SamEncoder(record.architecture, record.image_size, record.mean, record.std)
    return PlainVitEncoder(record.architecture, record.image_size, record.mean, record.std)


def _backbone_entries(record: EncoderRecord, state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Selects the encoder's entries; what is dropped is declared (mask decoder, prompt encoder, classifier)."""
    if isinstance(record.architecture, SamArchitecture):
        return encoder_entries(state, path)
    return {name: value for name, value in state.items() if name not in CLASSIFIER_ENTRIES}

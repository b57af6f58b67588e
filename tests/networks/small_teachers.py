"""Small teachers of every kind, untrained or trained for two steps, and a small encoder of every architecture."""

from __future__ import annotations

import pytest
import torch

from tskd_monai.networks.dino_encoder import Dinov2Architecture, Dinov3Architecture
from tskd_monai.networks.encoder_records import IMAGENET_MEAN, IMAGENET_STD, EncoderRecord
from tskd_monai.networks.encoders import EncoderArchitecture
from tskd_monai.networks.hiera_encoder import HieraArchitecture
from tskd_monai.networks.mri_core import MriCoreArchitecture
from tskd_monai.networks.plain_vit import PlainVitArchitecture
from tskd_monai.networks.sam_encoder import SamArchitecture
from tskd_monai.networks.teacher import VfmSegmenter
from tskd_monai.networks.teacher_builder import build_teacher
from tskd_monai.networks.tiny_vit import TinyVitArchitecture

IMAGES = torch.rand(2, 1, 32, 48, generator=torch.Generator().manual_seed(0))


def build(decoder: str = "light", seed: int = 3, weights: object = "random", **options: object) -> VfmSegmenter:
    numbers = {"encoder": "sam_demo", "image_size": (32, 48), "num_classes": 3, "rank": 2}
    return build_teacher(**{**numbers, **options}, encoder_weights=weights, decoder=decoder, seed=seed)


def take_a_step(segmenter: VfmSegmenter) -> VfmSegmenter:
    optimiser = torch.optim.AdamW([value for value in segmenter.parameters() if value.requires_grad], lr=1e-2)
    for _ in range(2):
        optimiser.zero_grad()
        segmenter(IMAGES).square().mean().backward()
        optimiser.step()
    return segmenter.eval()


def logits(segmenter: VfmSegmenter) -> torch.Tensor:
    with torch.no_grad():
        return segmenter(IMAGES)


VARIANTS = {
    "light, lora": {},
    "light, full": {"tuning": "full"},
    "light, decoder": {"tuning": "decoder"},
    "sam, lora": {"decoder": "sam"},
    "sam, full": {"decoder": "sam", "tuning": "full"},
    "sam, decoder": {"decoder": "sam", "tuning": "decoder"},
    "sam, unrefined": {"decoder": "sam", "refine": False},
    "sam with lora, lora": {"decoder": "sam", "decoder_lora": True},
    "sam with lora, decoder": {"decoder": "sam", "decoder_lora": True, "tuning": "decoder"},
    "query and value": {"target_modules": ["attn.qkv"], "qkv_parts": "qv"},
    "last layers": {"lora_depth": 2},
    "dora": {"decoder": "sam", "decoder_lora": True, "peft_options": {"use_dora": True, "use_rslora": True}},
}


every_variant = pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)


def small(name: str, architecture: EncoderArchitecture, image_size: int = 64) -> EncoderRecord:
    return EncoderRecord(name, architecture, image_size, IMAGENET_MEAN, IMAGENET_STD, "Apache-2.0", "these tests")


SMALL_RECORDS = {
    record.name: record
    for record in (
        small("small_sam", SamArchitecture(32, 4, 2, global_layers=(1, 3), window_size=3, embed_dim=64)),
        small("small_plain_vit", PlainVitArchitecture(48, 4, 3)),
        small("small_mri_core", MriCoreArchitecture(48, 4, 3)),
        small("small_dinov2", Dinov2Architecture(48, 4, 3), 70),
        small("small_dinov2_registers", Dinov2Architecture(48, 4, 3, num_registers=4), 70),
        small("small_dinov3", Dinov3Architecture(48, 4, 3, 96)),
        small("small_dinov3_gated", Dinov3Architecture(48, 4, 3, 96, gated=True)),
        small("small_tiny_vit", TinyVitArchitecture((8, 16, 24, 32), (1, 1, 2, 2), (2, 3, 4), (3, 5, 3), embed_dim=64)),
        small("small_hiera", HieraArchitecture(16, 1, (1, 2, 3, 2), (4, 5), embed_dim=32)),
    )
}
"""A small version of every architecture that a record has, by name; `small_record` makes one a known encoder."""

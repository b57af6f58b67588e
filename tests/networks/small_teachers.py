"""Small teachers of every kind, untrained or trained for two steps."""

from __future__ import annotations

import pytest
import torch

from tskd_monai.networks.teacher import VfmSegmenter
from tskd_monai.networks.teacher_builder import build_teacher

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
    "dora": {"decoder": "sam", "decoder_lora": True, "peft_options": {"use_dora": True, "use_rslora": True}},
}


every_variant = pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)

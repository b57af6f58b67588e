"""Tiny encoders of each architecture, with random weights."""

from __future__ import annotations

import pytest
import torch

from tskd_monai.networks.plain_vit import PlainVitArchitecture, PlainVitEncoder
from tskd_monai.networks.sam_encoder import SamArchitecture, SamEncoder
from tskd_monai.networks.tiny_vit import TinyVitArchitecture, TinyVitEncoder
from tskd_monai.networks.tiny_vit_layers import FixedNorm

HALF = (0.5, 0.5, 0.5)
TINY_VIT = TinyVitArchitecture((8, 16, 24, 32), (1, 1, 2, 2), (2, 3, 4), (3, 5, 3), embed_dim=64)


@pytest.fixture
def sam_encoder() -> SamEncoder:
    torch.manual_seed(0)
    architecture = SamArchitecture(32, 4, 2, global_layers=(1, 3), window_size=3, embed_dim=64)
    encoder = SamEncoder(architecture, 64, HALF, HALF)
    encoder.initialise_randomly()
    return encoder.eval()


@pytest.fixture
def plain_vit_encoder() -> PlainVitEncoder:
    torch.manual_seed(0)
    return PlainVitEncoder(PlainVitArchitecture(48, 4, 3), 64, HALF, HALF).eval()


@pytest.fixture
def tiny_vit_encoder() -> TinyVitEncoder:
    torch.manual_seed(0)
    encoder = TinyVitEncoder(TINY_VIT, 64, HALF, HALF)
    encoder.initialise_randomly()
    for module in encoder.modules():
        if isinstance(module, FixedNorm):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2.0)
    return encoder.eval()


@pytest.fixture(params=["sam_encoder", "plain_vit_encoder", "tiny_vit_encoder"])
def encoder(request: pytest.FixtureRequest) -> SamEncoder | PlainVitEncoder | TinyVitEncoder:
    return request.getfixturevalue(request.param)

"""Tiny encoders, both architectures, with random weights."""

from __future__ import annotations

import pytest
import torch

from tskd_monai.networks.plain_vit import PlainVitArchitecture, PlainVitEncoder
from tskd_monai.networks.sam_encoder import SamArchitecture, SamEncoder

HALF = (0.5, 0.5, 0.5)


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


@pytest.fixture(params=["sam_encoder", "plain_vit_encoder"])
def encoder(request: pytest.FixtureRequest) -> SamEncoder | PlainVitEncoder:
    return request.getfixturevalue(request.param)

from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel

from tskd_monai.synthesis.diffusion import build_noise_scheduler, build_unet


@pytest.fixture(scope="module")
def unet() -> UNet2DModel:
    torch.manual_seed(0)
    return build_unet((16, 16), 1, (8, 16), patch_size=2).eval()


@pytest.fixture(scope="module")
def noise_scheduler() -> DDPMScheduler:
    return build_noise_scheduler()

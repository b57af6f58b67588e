"""Variations of real slices: a slice is noised part of the way and denoised by the diffusion model.

The anatomy is the patient's, texture and contrast are partly the model's. Variations are derivatives of patients'
images and stay where these are.

Source:
    Meng et al. 2022, arXiv 2108.01073 (SDEdit).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import UNet2DModel

from tskd_monai.data.slices import SliceDataset
from tskd_monai.data.transfer_set import VARIATION
from tskd_monai.synthesis.compared_images import images_sha256, nonblank_images
from tskd_monai.synthesis.conditions import DrawnCondition
from tskd_monai.synthesis.diffusion import condition_of, position_condition

SOURCE_STREAM = 2  # separates a seed's source from its noise and from other conditions


class SourceSlices:
    """Real slices, drawn by seed, from which images are sampled.

    Args:
        dataset: slices with `image` (C, H, W) in [0, 1]; blank ones are left out.
        unet: U-Net that samples, unconditional or conditioned on the slice position, which is then the source's.
        strength: fraction of the noise levels that a slice is noised by, between 0 and 1; 0.2 to 0.6 are usual.

    Raises:
        ValueError: when the strength is not between 0 and 1, the U-Net is conditioned on label maps, or fewer than two
            slices are not blank.
    """

    def __init__(self, dataset: SliceDataset, unet: UNet2DModel, strength: float = 0.4) -> None:
        if isinstance(strength, bool) or not isinstance(strength, int | float) or not 0 < strength < 1:
            raise ValueError(f"Expected --strength between 0 and 1, found {strength}.")
        self.condition = condition_of(unet)
        if self.condition == "label_map":
            raise ValueError(
                "Expected a diffusion model without condition label_map for variations, found one with it; train one "
                "with --condition none or slice_position."
            )
        sources = nonblank_images(dataset)
        positions = {origin: float(item) for origin, item in zip(dataset.origins, dataset.positions, strict=True)}
        self.images = sources.pixels
        self.positions = [positions[origin] for origin in zip(sources.cases, sources.slices, strict=True)]
        self.strength: float | None = float(strength)
        self.settings = {"kind": VARIATION, "strength": strength, "sources_sha256": images_sha256(self.images)}

    def draw(self, seed: int) -> DrawnCondition:
        """Returns the source of the image with this seed."""
        index = int(np.random.default_rng([seed, SOURCE_STREAM]).integers(len(self.images)))
        record = {"source_slice": index, "strength": self.strength}
        return DrawnCondition(record=record, position=self.positions[index], source=self.images[index])

    def batch(self, drawn: Sequence[DrawnCondition], patch_size: int) -> dict[str, torch.Tensor]:
        """Returns the positions (B,) of the sources for a network conditioned on them."""
        if self.condition == "none":
            return {}
        return position_condition(torch.tensor([condition.position for condition in drawn]))

"""The diffusion model, and the adapters with which MONAI's stock `SupervisedTrainer` trains it.

The network is an unconditional `diffusers.UNet2DModel` on images in [-1, 1]. With `patch_size` p > 1 it sees an image
(C, H, W) as (C·p², H/p, W/p), a mere rearrangement of pixels (pixel unshuffle): a step then costs about p² times
less, which is what makes training on a CPU possible. Noise stays independent from pixel to pixel, so every formula
holds as it stands.

Sources:
    Ho et al. 2020, arXiv 2006.11239 (DDPM); Nichol and Dhariwal 2021, arXiv 2102.09672 (cosine schedule);
    Salimans and Ho 2022, arXiv 2202.00512 (v-prediction); Lin et al. 2023, arXiv 2305.08891 (zero terminal SNR).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DModel
from monai.data.meta_tensor import MetaTensor
from monai.engines.utils import PrepareBatch
from monai.inferers.inferer import Inferer
from torch.nn.functional import pixel_unshuffle

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
VALUE_TOLERANCE = 0.01  # interpolation may overshoot [0, 1] by a little; un-normalised images are off by far more
MAX_NORM_GROUPS = 8  # with one channel per group, group norm would erase each channel's mean
MAX_HEAD_CHANNELS = 32


def build_unet(
    image_size: Sequence[int],
    channels: int,
    block_out_channels: Sequence[int] = (32, 64, 128),
    layers_per_block: int = 1,
    patch_size: int = 1,
) -> UNet2DModel:
    """Returns an untrained diffusion U-Net with self-attention at its lowest resolution only.

    Args:
        image_size: (H, W) in pixels; multiples of patch_size · 2^(levels - 1).
        channels: of an image, 1 or 3.
        block_out_channels: features of each level, from full resolution down; each level halves the resolution.
        layers_per_block: residual blocks per level on the way down; one more on the way up.
        patch_size: side of the pixel blocks that become channels; 1 keeps the pixels.

    Raises:
        ValueError: when the sizes do not go together.
    """
    height, width = image_size
    factor = patch_size * 2 ** (len(block_out_channels) - 1)
    if height % factor or width % factor:
        raise ValueError(
            f"Expected image_size to be multiples of {factor} (patch_size {patch_size}, {len(block_out_channels)} "
            f"levels), found {height}x{width}; choose fewer block_out_channels, another patch_size or image_size."
        )
    plain = len(block_out_channels) - 1
    return UNet2DModel(
        sample_size=(height // patch_size, width // patch_size),
        in_channels=channels * patch_size**2,
        out_channels=channels * patch_size**2,
        block_out_channels=tuple(block_out_channels),
        layers_per_block=layers_per_block,
        down_block_types=("DownBlock2D",) * plain + ("AttnDownBlock2D",),
        up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * plain,
        attention_head_dim=math.gcd(block_out_channels[-1], MAX_HEAD_CHANNELS),
        norm_num_groups=math.gcd(*block_out_channels, MAX_NORM_GROUPS),
    )


def patch_size_of(unet: UNet2DModel, image_shape: Sequence[int]) -> int:
    """Returns the patch size with which a U-Net handles images of a shape.

    Args:
        unet: from `build_unet`.
        image_shape: (C, H, W).

    Raises:
        ValueError: when the U-Net was made for other images.
    """
    channels, height, width = image_shape
    patch_size = math.isqrt(unet.config.in_channels // channels)
    expected = (channels * patch_size**2, height // max(patch_size, 1), width // max(patch_size, 1))
    found = (unet.config.in_channels, *unet.config.sample_size)
    if expected != found:
        raise ValueError(
            f"Expected a diffusion U-Net for images of shape (C, H, W) = {tuple(image_shape)}, found one whose input "
            f"is {found}; take the image size and channels it was trained with."
        )
    return patch_size


def build_noise_scheduler(
    prediction_type: str = "v_prediction",
    num_train_timesteps: int = 1000,
    beta_schedule: str = "squaredcos_cap_v2",
    zero_terminal_snr: bool = False,
) -> DDPMScheduler:
    """Returns the noise schedule of training; samplers are derived from its configuration.

    Args:
        prediction_type: what the network predicts, "v_prediction", "sample" or "epsilon".
        num_train_timesteps: noise levels.
        beta_schedule: "squaredcos_cap_v2" (cosine; its last level is noise to within 5e-5 already), "linear" or
            "scaled_linear".
        zero_terminal_snr: rescale the betas so that the last level is noise and nothing else. Linear schedules need
            it, or samples cannot be darker or brighter on average than the mean image.

    Raises:
        ValueError: for an unknown prediction type, or one that zero terminal SNR makes undefined.
    """
    if prediction_type not in PREDICTION_TYPES:
        raise ValueError(f"Expected prediction_type to be one of {PREDICTION_TYPES}, found {prediction_type!r}.")
    if zero_terminal_snr and prediction_type == "epsilon":
        raise ValueError(
            "Expected prediction_type v_prediction or sample with zero_terminal_snr, found epsilon: "
            "an image cannot be recovered from pure noise and its prediction."
        )
    return DDPMScheduler(
        num_train_timesteps=num_train_timesteps,
        beta_schedule=beta_schedule,
        prediction_type=prediction_type,
        rescale_betas_zero_snr=zero_terminal_snr,
        timestep_spacing="trailing",
    )


class DiffusionPrepareBatch(PrepareBatch):
    """Makes (noisy image, target, (timesteps,), {}) of a batch of images, for `SupervisedTrainer`.

    With x the image in [-1, 1], ε standard normal, t uniform and ᾱ the schedule, the noisy image is
    √ᾱ_t·x + √(1 - ᾱ_t)·ε; the target is ε, v = √ᾱ_t·ε - √(1 - ᾱ_t)·x, or x, by the schedule's prediction type.
    Noise and timesteps come from torch's global generator of the batch's device.

    Args:
        noise_scheduler: from `build_noise_scheduler`.
        patch_size: that of the U-Net.
        image_key: of the batch's images, (B, C, H, W) in [0, 1].
    """

    def __init__(self, noise_scheduler: DDPMScheduler, patch_size: int = 1, image_key: str = "image") -> None:
        self.noise_scheduler, self.patch_size, self.image_key = noise_scheduler, patch_size, image_key

    def __call__(
        self,
        batchdata: Mapping[str, torch.Tensor],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,  # of Tensor.to, by the interface
    ) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor], dict[str, Any]]:
        """Returns tensors of shape (B, C·p², H/p, W/p), (B, C·p², H/p, W/p) and (B,).

        Raises:
            ValueError: when the values are not in [0, 1].
        """
        images = batchdata[self.image_key].to(device=device, non_blocking=non_blocking, **kwargs)
        images = images.as_tensor() if isinstance(images, MetaTensor) else images
        clean = pixel_unshuffle(_to_symmetric(images), self.patch_size)
        noise = torch.randn_like(clean)
        steps = self.noise_scheduler.config.num_train_timesteps
        timesteps = torch.randint(0, steps, (clean.shape[0],), device=clean.device)
        noisy = self.noise_scheduler.add_noise(clean, noise, timesteps)
        return noisy, self._target(clean, noise, timesteps), (timesteps,), {}

    def _target(self, clean: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        prediction_type = self.noise_scheduler.config.prediction_type
        if prediction_type == "epsilon":
            return noise
        if prediction_type == "v_prediction":
            return self.noise_scheduler.get_velocity(clean, noise, timesteps)
        return clean


def _to_symmetric(images: torch.Tensor) -> torch.Tensor:
    """Returns images of [0, 1] in [-1, 1].

    Raises:
        ValueError: when they were not in [0, 1], or hold NaN.
    """
    low, high = (float(value) for value in torch.aminmax(images))
    if not (low >= -VALUE_TOLERANCE and high <= 1 + VALUE_TOLERANCE):
        raise ValueError(f"Expected images in [0, 1] for diffusion, found [{low:.4g}, {high:.4g}]; normalise them.")
    return images.clamp(0, 1) * 2 - 1


class DiffusionInferer(Inferer):
    """Calls a diffusers U-Net as `network(noisy, timesteps)` and returns the bare tensor."""

    def __call__(
        self,
        inputs: torch.Tensor,
        network: Callable[..., Any],
        *args: Any,  # by the interface: (timesteps,)
        **kwargs: Any,
    ) -> torch.Tensor:
        """Returns the network's prediction, shaped as `inputs`.

        Args:
            inputs: noisy images (B, C·p², H/p, W/p).
            network: the U-Net, or a wrapper of it such as DDP.
            args: the timesteps (B,).
            kwargs: none is used.
        """
        (timesteps,) = args
        return network(inputs, timesteps, return_dict=False)[0]

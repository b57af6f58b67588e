"""Images from a diffusion model, where image k depends on seed k alone.

Noise is drawn per image from a CPU generator with the image's own seed. Batches always have the same size, padded at
the end: kernels choose their order of summation by shape, so only a fixed shape gives the same bits for a seed
whatever else is sampled with it (on one machine, build and number of threads).

Sources:
    Lu et al. 2022, arXiv 2211.01095 (DPM-Solver++); Song et al. 2021, arXiv 2010.02502 (DDIM).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, UNet2DModel
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from tskd_monai.synthesis.diffusion import patch_size_of

SAMPLERS = ("dpmsolver++", "ddim")
# The log SNR/2 from which epsilon prediction starts on a cosine schedule: below, x = (x_t - σ·ε)/α divides by nearly
# zero. The value is the one diffusers documents; v and sample prediction have no such division.
EPSILON_LAMBDA_MIN = -5.1

Sampler: TypeAlias = DPMSolverMultistepScheduler | DDIMScheduler


def build_sampler(noise_scheduler: DDPMScheduler, sampler: str = "dpmsolver++") -> Sampler:
    """Returns a deterministic sampler with the betas and prediction type of a training schedule.

    Both start at the last noise level ("trailing"), where training ends too, and both clip each prediction of the
    clean image to [-1, 1]. Karras' noise levels are not used: on schedules that end in pure noise they spend most
    steps where nothing is decided yet.

    Args:
        noise_scheduler: of the training.
        sampler: "dpmsolver++" (second order, multistep; 15 to 20 steps suffice) or "ddim" (100 and more).

    Raises:
        ValueError: for another name.
    """
    if sampler not in SAMPLERS:
        raise ValueError(f"Expected sampler to be one of {SAMPLERS}, found {sampler!r}.")
    config = noise_scheduler.config
    if sampler == "ddim":
        return DDIMScheduler.from_config(config, timestep_spacing="trailing", clip_sample=True, clip_sample_range=1.0)
    lambda_min = EPSILON_LAMBDA_MIN if config.prediction_type == "epsilon" else -float("inf")
    return DPMSolverMultistepScheduler.from_config(
        config,
        timestep_spacing="trailing",
        lambda_min_clipped=lambda_min,
        thresholding=True,
        sample_max_value=1.0,  # with this bound, thresholding is clipping
    )


def sample_images(
    unet: UNet2DModel,
    noise_scheduler: DDPMScheduler,
    *,
    seeds: Sequence[int],
    image_shape: Sequence[int],
    batch_size: int,
    num_inference_steps: int = 20,
    sampler: str = "dpmsolver++",
    device: str | torch.device = "cpu",
) -> Iterator[tuple[int, torch.Tensor]]:
    """Yields (seed, image) in the order of `seeds`; an image is float32 (C, H, W) in [0, 1] on the CPU.

    The U-Net is moved to `device` and set to evaluation mode.

    Args:
        unet: with the weights to sample from.
        noise_scheduler: of the training.
        seeds: one per image, not negative.
        image_shape: (C, H, W).
        batch_size: of every call of the network, the last one included.
        num_inference_steps: calls of the network per batch.
        sampler: name for `build_sampler`.
        device: that the network runs on.

    Raises:
        ValueError: for an unknown sampler, other images than the U-Net's, or numbers that are not positive.
    """
    if batch_size < 1 or num_inference_steps < 1:
        raise ValueError(
            f"Expected batch_size and num_inference_steps of at least 1, found {batch_size} and {num_inference_steps}."
        )
    if any(seed < 0 for seed in seeds):
        raise ValueError(f"Expected seeds of at least 0, found {min(seeds)}.")
    patch_size = patch_size_of(unet, image_shape)
    solver = build_sampler(noise_scheduler, sampler)
    unet.to(device).eval()

    def batches() -> Iterator[tuple[int, torch.Tensor]]:
        for start in range(0, len(seeds), batch_size):
            batch = list(seeds[start : start + batch_size])
            padded = batch + batch[-1:] * (batch_size - len(batch))
            noise = pixel_unshuffle(seeded_noise(padded, image_shape).to(device), patch_size)
            symmetric = pixel_shuffle(_denoise(unet, solver, noise, num_inference_steps), patch_size)
            images = ((symmetric + 1) / 2).clamp(0, 1).float().cpu()
            yield from zip(batch, images[: len(batch)].clone(), strict=True)

    return batches()


def seeded_noise(seeds: Sequence[int], image_shape: Sequence[int]) -> torch.Tensor:
    """Returns standard normal noise (B, C, H, W) on the CPU, each image from a generator with its own seed."""
    generators = (torch.Generator().manual_seed(seed) for seed in seeds)
    return torch.stack([torch.randn(tuple(image_shape), generator=generator) for generator in generators])


@torch.inference_mode()
def _denoise(unet: UNet2DModel, solver: Sampler, noise: torch.Tensor, num_inference_steps: int) -> torch.Tensor:
    """Returns the clean images, in [-1, 1], that the sampler reaches from this noise."""
    solver.set_timesteps(num_inference_steps, device=noise.device)
    sample = noise * solver.init_noise_sigma
    for timestep in solver.timesteps:
        prediction = unet(solver.scale_model_input(sample, timestep), timestep, return_dict=False)[0]
        sample = solver.step(prediction, timestep, sample, return_dict=False)[0]
    return sample

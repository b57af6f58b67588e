"""Sampling of a diffusion model, in which image k depends only on seed k.

Each image's noise and condition come from a CPU generator with the image's own seed. All batches have the same size,
padded at the end: kernels choose their order of summation by shape, so only a fixed shape gives the same bits for a
seed regardless of the other images (on one machine, build and number of threads).

Sources:
    Lu et al. 2022, arXiv 2211.01095 (DPM-Solver++); Song et al. 2021, arXiv 2010.02502 (DDIM);
    Lipman et al. 2022, arXiv 2210.02747 (flow matching, integrated by Euler's method);
    Meng et al. 2022, arXiv 2108.01073 (SDEdit: sampling from a partly noised image).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, UNet2DModel
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from tskd_monai.synthesis.conditions import ConditionSource, DrawnCondition, Unconditional
from tskd_monai.synthesis.diffusion import NoiseScheduler, patch_size_of, predict

DIFFUSION_SAMPLERS = ("dpmsolver++", "ddim")
FLOW_SAMPLERS = ("dpmsolver++", "euler")
# The log SNR/2 from which epsilon prediction starts on a cosine schedule: below it, x = (x_t - σ·ε)/α divides by nearly
# zero. The value is from the documentation of diffusers; v and sample prediction have no such division.
EPSILON_LAMBDA_MIN = -5.1

Sampler: TypeAlias = DPMSolverMultistepScheduler | DDIMScheduler | FlowMatchEulerDiscreteScheduler


def build_sampler(noise_scheduler: NoiseScheduler, sampler: str = "dpmsolver++") -> Sampler:
    """Returns a deterministic sampler with the noise levels and prediction type of a training schedule.

    All samplers start at the last noise level. DPM-Solver++ and DDIM clip each clean-image prediction to [-1, 1].
    DPM-Solver++ spaces its steps evenly in log SNR, as its authors do, which brings 20 steps closer to 250 at no cost;
    epsilon prediction has to skip the noisiest levels and keeps even timesteps.

    Args:
        noise_scheduler: noise schedule of the training run.
        sampler: "dpmsolver++" (second order, multistep; 15 to 20 steps suffice), "ddim" (100 steps or more; not for
            flow matching) or "euler" (20 steps or more; only for flow matching).

    Raises:
        ValueError: when the sampler is unknown, or does not support the schedule.
    """
    flow = isinstance(noise_scheduler, FlowMatchEulerDiscreteScheduler)
    expected = FLOW_SAMPLERS if flow else DIFFUSION_SAMPLERS
    if sampler not in expected:
        kind = "flow matching" if flow else "diffusion"
        raise ValueError(f"Expected sampler to be one of {expected} for a {kind} model, found {sampler!r}.")
    if sampler == "euler":
        return FlowMatchEulerDiscreteScheduler.from_config(noise_scheduler.config)
    config = noise_scheduler.config
    if sampler == "ddim":
        return DDIMScheduler.from_config(config, timestep_spacing="trailing", clip_sample=True, clip_sample_range=1.0)
    clipping = {"thresholding": True, "sample_max_value": 1.0}  # with this bound, thresholding is clipping
    if flow:
        return DPMSolverMultistepScheduler(
            config.num_train_timesteps, prediction_type="flow_prediction", use_flow_sigmas=True, **clipping
        )
    if config.prediction_type == "epsilon":
        spacing = {"timestep_spacing": "trailing", "lambda_min_clipped": EPSILON_LAMBDA_MIN}
    else:
        spacing = {"use_lu_lambdas": True}
    return DPMSolverMultistepScheduler.from_config(config, **spacing, **clipping)


@dataclass(frozen=True)
class SampledImage:
    """A sampled image.

    Attributes:
        seed: seed of the image.
        image: float32 (C, H, W) in [0, 1], on the CPU.
        condition: condition of the image.
    """

    seed: int
    image: torch.Tensor
    condition: DrawnCondition


@dataclass(frozen=True)
class ImageSampler:
    """Samples images from a diffusion model by seed.

    Attributes:
        unet: U-Net with the weights to sample from; moved to `device` and set to evaluation mode.
        noise_scheduler: noise schedule of the training run.
        image_shape: (C, H, W).
        batch_size: images in every forward pass, also the last. Another size changes images in their last bits.
        num_inference_steps: forward passes per batch over all noise levels; fewer are run where images have a source.
        sampler: name for `build_sampler`.
        device: device of the network.
        conditions: source of the condition that the network was trained with.

    Raises:
        ValueError: when the sampler is unknown, the shape is not the U-Net's, a number is not positive, or the strength
            leaves no step.
    """

    unet: UNet2DModel
    noise_scheduler: NoiseScheduler
    image_shape: Sequence[int]
    batch_size: int
    num_inference_steps: int = 20
    sampler: str = "dpmsolver++"
    device: str | torch.device = "cpu"
    conditions: ConditionSource = field(default_factory=Unconditional)

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.num_inference_steps < 1:
            raise ValueError(
                "Expected batch_size and num_inference_steps of at least 1, "
                f"found {self.batch_size} and {self.num_inference_steps}."
            )
        patch_size_of(self.unet, self.image_shape)
        solver = build_sampler(self.noise_scheduler, self.sampler)
        if self.conditions.strength is not None:
            solver.set_timesteps(self.num_inference_steps)
            first_step(solver, self.conditions.strength)

    @property
    def settings(self) -> dict[str, Any]:
        """JSON values that determine the images, besides their seeds and the weights."""
        channels, height, width = self.image_shape
        return {
            "image_size": [height, width],
            "channels": channels,
            "sampler": self.sampler,
            "num_inference_steps": self.num_inference_steps,
            "batch_size": self.batch_size,
            "condition": self.conditions.settings,
        }

    def sample(self, seeds: Sequence[int]) -> Iterator[SampledImage]:
        """Yields the images in the order of `seeds`.

        Args:
            seeds: one seed per image, at least 0.

        Raises:
            ValueError: when a seed is negative, before sampling starts.
        """
        if any(seed < 0 for seed in seeds):
            raise ValueError(f"Expected seeds of at least 0, found {min(seeds)}.")
        return self._sample(seeds)

    def _sample(self, seeds: Sequence[int]) -> Iterator[SampledImage]:
        solver = build_sampler(self.noise_scheduler, self.sampler)
        self.unet.to(self.device).eval()
        for start in range(0, len(seeds), self.batch_size):
            batch = list(seeds[start : start + self.batch_size])
            padded = batch + batch[-1:] * (self.batch_size - len(batch))
            drawn = [self.conditions.draw(seed) for seed in padded]
            images = self._sample_batch(solver, padded, drawn)
            for seed, image, condition in zip(batch, images, drawn, strict=False):
                yield SampledImage(seed, image.clone(), condition)

    @torch.inference_mode()
    def _sample_batch(self, solver: Sampler, seeds: Sequence[int], drawn: Sequence[DrawnCondition]) -> torch.Tensor:
        """Returns images (B, C, H, W) in [0, 1] for `batch_size` seeds."""
        patch_size = patch_size_of(self.unet, self.image_shape)
        noise = pixel_unshuffle(seeded_noise(seeds, self.image_shape).to(self.device), patch_size)
        conditions = self.conditions.batch(drawn, patch_size)
        conditions = {name: tensor.to(self.device) for name, tensor in conditions.items()}
        solver.set_timesteps(self.num_inference_steps, device=noise.device)
        sample, timesteps = noise * getattr(solver, "init_noise_sigma", 1.0), solver.timesteps  # flow: noise as it is
        if self.conditions.strength is not None:
            sources = torch.stack([condition.source for condition in drawn if condition.source is not None])
            sources = pixel_unshuffle(sources.to(self.device) * 2 - 1, patch_size)
            sample, timesteps = partly_noised(solver, sources, noise, self.conditions.strength)
        for timestep in timesteps:
            prediction = predict(self.unet, sample, timestep, conditions)
            sample = solver.step(prediction, timestep, sample, return_dict=False)[0]
        return ((pixel_shuffle(sample, patch_size) + 1) / 2).clamp(0, 1).float().cpu()


def first_step(solver: Sampler, strength: float) -> int:
    """Returns the index of the first of a sampler's timesteps at or below a fraction of the noise levels.

    Raises:
        ValueError: when there is none.
    """
    index = int((solver.timesteps > strength * solver.config.num_train_timesteps).sum())
    if index == len(solver.timesteps):
        raise ValueError(
            f"Expected a sampling step at or below --strength {strength}, found none of {len(solver.timesteps)}; raise "
            "--strength or --num_inference_steps."
        )
    return index


def partly_noised(
    solver: Sampler, images: torch.Tensor, noise: torch.Tensor, strength: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns images with the noise of the first timestep at or below a strength, and the timesteps from there on.

    Args:
        solver: sampler whose timesteps are set; it starts at that timestep.
        images: (B, C·p², H/p, W/p) in [-1, 1].
        noise: standard normal noise of the same shape.
        strength: fraction of the noise levels.
    """
    first = first_step(solver, strength)
    timesteps = solver.timesteps[first:]
    starts = timesteps[:1].expand(len(images))
    if isinstance(solver, DDIMScheduler):
        return solver.add_noise(images, noise, starts), timesteps
    solver.set_begin_index(first)
    if isinstance(solver, FlowMatchEulerDiscreteScheduler):
        return solver.scale_noise(images, starts, noise), timesteps
    return solver.add_noise(images, noise, starts), timesteps


def seeded_noise(seeds: Sequence[int], image_shape: Sequence[int]) -> torch.Tensor:
    """Returns standard normal noise (B, C, H, W) on the CPU, each image from a generator with its own seed."""
    generators = (torch.Generator().manual_seed(seed) for seed in seeds)
    return torch.stack([torch.randn(tuple(image_shape), generator=generator) for generator in generators])

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler, UNet2DModel

from tskd_monai.synthesis.diffusion import build_noise_scheduler
from tskd_monai.synthesis.sampling import ImageSampler, build_sampler, seeded_noise

SHAPE = (1, 16, 16)


def sample(
    unet: torch.nn.Module, scheduler: DDPMScheduler, seeds: list[int], **settings: Any
) -> dict[int, torch.Tensor]:
    options: dict[str, Any] = {"image_shape": SHAPE, "batch_size": 4, "num_inference_steps": 3, **settings}
    return {sampled.seed: sampled.image for sampled in ImageSampler(unet, scheduler, **options).sample(seeds)}


class PerfectNetwork(torch.nn.Module):
    """Predicts, from noisy images, what leads to one known image."""

    def __init__(self, clean: torch.Tensor, scheduler: DDPMScheduler) -> None:
        super().__init__()
        self.clean, self.scheduler = clean * 2 - 1, scheduler
        self.config = type("Config", (), {"out_channels": 1, "sample_size": (16, 16)})()

    def forward(
        self, noisy: torch.Tensor, timestep: torch.Tensor, class_labels: None, return_dict: bool
    ) -> tuple[torch.Tensor]:
        if isinstance(self.scheduler, FlowMatchEulerDiscreteScheduler):
            return ((noisy - self.clean) / (timestep / 1000),)
        alpha = self.scheduler.alphas_cumprod[timestep.long()].clamp(min=2**-24).sqrt()
        sigma = (1 - alpha**2).sqrt()
        noise = (noisy - alpha * self.clean) / sigma
        predictions = {"epsilon": noise, "v_prediction": alpha * noise - sigma * self.clean, "sample": self.clean}
        return (predictions[self.scheduler.config.prediction_type].expand_as(noisy),)


@pytest.mark.parametrize("sampler", ["dpmsolver++", "ddim"])
def test_images_are_finite_in_range_and_plain(unet: UNet2DModel, noise_scheduler: DDPMScheduler, sampler: str) -> None:
    images = sample(unet, noise_scheduler, [3, 1, 2], sampler=sampler)
    assert list(images) == [3, 1, 2]
    for image in images.values():
        assert image.shape == SHAPE
        assert image.dtype == torch.float32
        assert 0 <= float(image.min()) < float(image.max()) <= 1
        assert not image.is_inference()


@pytest.mark.parametrize("sampler", ["dpmsolver++", "ddim"])
def test_a_seed_gives_the_same_bits_in_any_company(
    unet: UNet2DModel, noise_scheduler: DDPMScheduler, sampler: str
) -> None:
    together = sample(unet, noise_scheduler, list(range(10)), sampler=sampler)
    for seeds in ([7], [9, 7], [1, 2, 3, 4, 5, 6, 7], list(reversed(range(10)))):
        for seed, image in sample(unet, noise_scheduler, seeds, sampler=sampler).items():
            assert torch.equal(image, together[seed])
    assert not torch.equal(together[0], together[1])


def test_every_batch_has_the_same_size(unet: UNet2DModel, noise_scheduler: DDPMScheduler) -> None:
    sizes: list[int] = []
    hook = unet.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    sample(unet, noise_scheduler, [0, 1, 2, 3, 4])
    hook.remove()
    assert sizes == [4] * 6


def test_global_random_state_neither_matters_nor_changes(unet: UNet2DModel, noise_scheduler: DDPMScheduler) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = sample(unet, noise_scheduler, [5])[5]
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(sample(unet, noise_scheduler, [5])[5], first)


def test_noise_is_standard_normal_by_seed() -> None:
    noise = seeded_noise(range(64), (1, 32, 32))
    assert abs(float(noise.mean())) < 0.02
    assert abs(float(noise.std()) - 1) < 0.02
    assert torch.equal(noise[9], seeded_noise([9], (1, 32, 32))[0])


@pytest.mark.parametrize("sampler", ["dpmsolver++", "ddim"])
@pytest.mark.parametrize(
    ("prediction_type", "beta_schedule", "zero_snr"),
    [
        ("v_prediction", "squaredcos_cap_v2", False),
        ("v_prediction", "linear", True),
        ("sample", "squaredcos_cap_v2", False),
        ("sample", "scaled_linear", True),
        ("epsilon", "squaredcos_cap_v2", False),
    ],
)
def test_a_perfect_network_leads_to_its_image(
    prediction_type: str, beta_schedule: str, zero_snr: bool, sampler: str
) -> None:
    scheduler = build_noise_scheduler(prediction_type, beta_schedule=beta_schedule, zero_terminal_snr=zero_snr)
    clean = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0))
    clean[:, :4], clean[:, 12:] = 0, 1
    network = PerfectNetwork(clean, scheduler)
    for steps in (5, 20):
        image = sample(network, scheduler, [0], sampler=sampler, num_inference_steps=steps)[0]
        torch.testing.assert_close(image, clean, atol=2e-3, rtol=0)


@pytest.mark.parametrize("sampler", ["dpmsolver++", "euler"])
def test_a_perfect_flow_leads_to_its_image(sampler: str) -> None:
    scheduler = build_noise_scheduler("flow")
    clean = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0))
    for steps in (5, 20):
        image = sample(PerfectNetwork(clean, scheduler), scheduler, [0], sampler=sampler, num_inference_steps=steps)[0]
        torch.testing.assert_close(image, clean, atol=2e-3, rtol=0)


def test_a_sampler_must_match_the_training(unet: UNet2DModel, noise_scheduler: DDPMScheduler) -> None:
    with pytest.raises(ValueError, match=r"\('dpmsolver\+\+', 'euler'\) for a flow matching model, found 'ddim'"):
        sample(unet, build_noise_scheduler("flow"), [0], sampler="ddim")
    with pytest.raises(ValueError, match=r"\('dpmsolver\+\+', 'ddim'\) for a diffusion model, found 'euler'"):
        sample(unet, noise_scheduler, [0], sampler="euler")


def test_another_batch_size_changes_hardly_a_pixel(unet: UNet2DModel, noise_scheduler: DDPMScheduler) -> None:
    images = [
        torch.stack(list(sample(unet, noise_scheduler, list(range(12)), batch_size=size).values()))
        for size in (1, 4, 7)
    ]
    reference, *others = [(batch * 255).round() for batch in images]
    for other in others:
        assert float(((reference - other).abs() <= 1).float().mean()) >= 0.999


@pytest.mark.parametrize("sampler", ["dpmsolver++", "ddim"])
def test_sampling_starts_at_the_last_noise_level(sampler: str) -> None:
    for zero_snr in (False, True):
        solver = build_sampler(build_noise_scheduler(zero_terminal_snr=zero_snr), sampler)
        solver.set_timesteps(20)
        assert int(solver.timesteps[0]) == 999
        assert len(solver.timesteps) == 20
        assert solver.config.prediction_type == "v_prediction"


def test_wrong_arguments_are_refused(unet: UNet2DModel, noise_scheduler: DDPMScheduler) -> None:
    with pytest.raises(ValueError, match="at least 1, found 0 and 3"):
        sample(unet, noise_scheduler, [0], batch_size=0)
    with pytest.raises(ValueError, match="seeds of at least 0, found -1"):
        sample(unet, noise_scheduler, [0, -1])
    with pytest.raises(ValueError, match=r"\(C, H, W\) = \(1, 32, 32\), found one whose output is \(4, 8, 8\)"):
        ImageSampler(unet, noise_scheduler, (1, 32, 32), batch_size=1)

from __future__ import annotations

import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from monai.engines import SupervisedTrainer

from tskd_monai.synthesis.diffusion import (
    DiffusionInferer,
    DiffusionPrepareBatch,
    build_noise_scheduler,
    build_unet,
    patch_size_of,
)


def images(batch: int = 2, channels: int = 1, size: int = 16) -> torch.Tensor:
    return torch.rand(batch, channels, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("image_size", "channels", "blocks", "patch_size"),
    [((16, 16), 1, (8, 16), 1), ((16, 32), 3, (8, 16), 2), ((32, 32), 1, (12, 20, 28), 4), ((16, 16), 1, (5, 7), 1)],
)
def test_unet_keeps_the_shape(
    image_size: tuple[int, int], channels: int, blocks: tuple[int, ...], patch_size: int
) -> None:
    unet = build_unet(image_size, channels, blocks, patch_size=patch_size)
    shape = (2, channels * patch_size**2, image_size[0] // patch_size, image_size[1] // patch_size)
    predicted = DiffusionInferer()(torch.randn(shape), unet, torch.tensor([0, 999]))
    assert predicted.shape == shape
    assert patch_size_of(unet, (channels, *image_size)) == patch_size


def test_attention_is_at_the_lowest_resolution_only() -> None:
    unet = build_unet((32, 32), 1, (8, 16, 32))
    attention = {name.split(".attentions")[0] for name, _ in unet.named_parameters() if "attentions" in name}
    assert attention == {"down_blocks.2", "mid_block", "up_blocks.0"}


def test_image_size_that_cannot_be_halved_is_refused() -> None:
    with pytest.raises(ValueError, match=r"multiples of 8 \(patch_size 2, 3 levels\), found 16x20"):
        build_unet((16, 20), 1, (8, 8, 8), patch_size=2)


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 32, 32), (1, 16, 32)])
def test_unet_of_other_images_is_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="found one whose input is"):
        patch_size_of(build_unet((16, 16), 1, (8, 8)), shape)


def test_cosine_and_zero_snr_schedules_end_in_noise() -> None:
    assert float(build_noise_scheduler().alphas_cumprod[-1]) < 1e-8
    linear = build_noise_scheduler(beta_schedule="linear", zero_terminal_snr=True)
    assert float(linear.alphas_cumprod[-1]) == 0


def test_impossible_schedules_are_refused() -> None:
    with pytest.raises(ValueError, match="found 'velocity'"):
        build_noise_scheduler("velocity")
    with pytest.raises(ValueError, match="found epsilon"):
        build_noise_scheduler("epsilon", zero_terminal_snr=True)


@pytest.mark.parametrize("patch_size", [1, 2])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_a_perfect_prediction_gives_the_clean_image_back(prediction_type: str, patch_size: int) -> None:
    scheduler = build_noise_scheduler(prediction_type)
    torch.manual_seed(3)
    batch = images(4)
    noisy, target, (timesteps,), kwargs = DiffusionPrepareBatch(scheduler, patch_size)({"image": batch})
    alpha = scheduler.alphas_cumprod[timesteps].sqrt().view(-1, 1, 1, 1)
    sigma = (1 - alpha**2).sqrt()
    clean = {
        "epsilon": (noisy - sigma * target) / alpha,
        "v_prediction": alpha * noisy - sigma * target,
        "sample": target,
    }[prediction_type]
    assert kwargs == {}
    assert timesteps.shape == (4,)
    torch.testing.assert_close(torch.nn.functional.pixel_shuffle(clean, patch_size), batch * 2 - 1, atol=1e-4, rtol=0)


def test_draws_follow_the_global_seed_and_leave_the_batch_alone() -> None:
    prepare, batch = DiffusionPrepareBatch(build_noise_scheduler()), {"image": MetaTensor(images())}
    drawn = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        drawn.append(prepare(batch)[0])
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert not isinstance(drawn[0], MetaTensor)
    assert torch.equal(batch["image"].as_tensor(), images())


@pytest.mark.parametrize("bad", [images() * 255, images() - 0.5, images() * float("nan")])
def test_images_that_are_not_normalised_are_refused(bad: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"Expected images in \[0, 1\] for diffusion"):
        DiffusionPrepareBatch(build_noise_scheduler())({"image": bad})


def test_stock_trainer_learns_one_image() -> None:
    torch.manual_seed(0)
    scheduler, unet = build_noise_scheduler("sample"), build_unet((16, 16), 1, (8, 8))
    losses: list[float] = []
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=[{"image": MetaTensor(images(1)).repeat(8, 1, 1, 1)}] * 30,
        network=unet,
        optimizer=torch.optim.AdamW(unet.parameters(), 3e-3),
        loss_function=torch.nn.MSELoss(),
        inferer=DiffusionInferer(),
        prepare_batch=DiffusionPrepareBatch(scheduler),
        decollate=False,
    )
    trainer.add_event_handler("ITERATION_COMPLETED", lambda engine: losses.append(engine.state.output["loss"].item()))
    trainer.run()
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])

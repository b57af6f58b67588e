from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import EMAModel
from monai.data.meta_tensor import MetaTensor
from monai.engines import SupervisedTrainer

from tskd_monai.data.task import Task
from tskd_monai.files.json_files import read_json
from tskd_monai.synthesis.diffusion import build_noise_scheduler, build_unet, position_condition
from tskd_monai.synthesis.ema import EmaHandler
from tskd_monai.synthesis.pipeline_folder import load_diffusion_pipeline
from tskd_monai.synthesis.training import (
    DiffusionInferer,
    DiffusionLoss,
    DiffusionPrepareBatch,
    DiffusionTarget,
    finish_diffusion,
    snr_weights,
)
from tskd_monai.training.history import TrainingHistory


def images(batch: int = 2, channels: int = 1, size: int = 16) -> torch.Tensor:
    return torch.rand(batch, channels, size, size, generator=torch.Generator().manual_seed(0))


def test_averaged_weights_are_what_is_kept(
    tmp_path: Path, noise_scheduler: DDPMScheduler, make_task: Callable[..., Task]
) -> None:
    task = make_task(image_size=(16, 16))
    unet = build_unet(task.image_size, task.channels, (8, 8))
    ema = EmaHandler(EMAModel(unet.parameters(), decay=0.5), unet)
    with torch.no_grad():
        unet.conv_out.bias.fill_(4.0)
    history = TrainingHistory(tmp_path / "history.jsonl", torch.optim.SGD(unet.parameters(), lr=0.1))
    history.load_state_dict({"rows": [{"epoch": 1, "seconds": 2.5, "train_loss": 0.25}]})
    finish_diffusion(ema, noise_scheduler, history, tmp_path, task, {"seed": 0}, {})
    saved = load_diffusion_pipeline(tmp_path / "pipeline", task.hash).unet.state_dict()["conv_out.bias"]
    assert torch.equal(saved, ema.averaged_network().state_dict()["conv_out.bias"])
    assert not torch.equal(saved, unet.state_dict()["conv_out.bias"])
    results = read_json(tmp_path / "record.json")["results"]
    assert results["seconds"] == 2.5 and results["train_loss"] == 0.25


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
        "epsilon": (noisy - sigma * target.values) / alpha,
        "v_prediction": alpha * noisy - sigma * target.values,
        "sample": target.values,
    }[prediction_type]
    assert kwargs == {}
    assert timesteps.shape == (4,)
    assert torch.equal(target.weights, torch.ones(4))
    torch.testing.assert_close(torch.nn.functional.pixel_shuffle(clean, patch_size), batch * 2 - 1, atol=1e-4, rtol=0)


def test_draws_follow_the_global_seed_and_leave_the_batch_unchanged() -> None:
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


@pytest.mark.usefixtures("bfloat16_anywhere")
@pytest.mark.parametrize(("prediction_type", "precision"), [("sample", "float32"), ("flow", "bfloat16")])
def test_stock_trainer_learns_one_image(prediction_type: str, precision: str) -> None:
    torch.manual_seed(0)
    scheduler, unet = build_noise_scheduler(prediction_type), build_unet((16, 16), 1, (8, 8))
    losses: list[float] = []
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=[{"image": MetaTensor(images(1)).repeat(8, 1, 1, 1)}] * 30,
        network=unet,
        optimizer=torch.optim.AdamW(unet.parameters(), 3e-3),
        loss_function=DiffusionLoss(),
        inferer=DiffusionInferer(precision),
        prepare_batch=DiffusionPrepareBatch(scheduler),
        decollate=False,
    )
    trainer.add_event_handler("ITERATION_COMPLETED", lambda engine: losses.append(engine.state.output["loss"].item()))
    trainer.run()
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_a_flow_is_a_straight_line_from_image_to_noise() -> None:
    torch.manual_seed(3)
    batch = images(4)
    noisy, target, (timesteps,), _ = DiffusionPrepareBatch(build_noise_scheduler("flow"))({"image": batch})
    sigma = (timesteps / 1000).view(-1, 1, 1, 1)
    assert 1 <= int(timesteps.min()) <= int(timesteps.max()) <= 1000
    torch.testing.assert_close(noisy - sigma * target.values, batch * 2 - 1, atol=1e-5, rtol=0)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_the_range_weights_the_error_of_the_clean_image_equally(prediction_type: str) -> None:
    scheduler = build_noise_scheduler(prediction_type)
    signal = scheduler.alphas_cumprod
    ratio = signal / (1 - signal)
    # An error e of the clean image is one of e·√SNR in epsilon, e·√(SNR + 1) in v.
    squared = {"epsilon": ratio, "v_prediction": ratio + 1, "sample": torch.ones(1000)}[prediction_type]
    weights = snr_weights(scheduler, (0.5, 5.0))
    torch.testing.assert_close(weights * squared, ratio.clamp(0.5, 5.0), rtol=1e-4, atol=1e-7)
    assert torch.equal(snr_weights(scheduler, None), torch.ones(1000))


def test_impossible_weights_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no snr_range with prediction_type flow, found \(0, 5\)"):
        snr_weights(build_noise_scheduler("flow"), (0, 5))
    with pytest.raises(ValueError, match=r"0 <= low < high, found \(5, 1\)"):
        snr_weights(build_noise_scheduler(), (5, 1))


def test_the_loss_weights_images() -> None:
    prediction = torch.zeros(2, 1, 4, 4)
    values = torch.stack([torch.full((1, 4, 4), 2.0), torch.full((1, 4, 4), 3.0)])
    loss = DiffusionLoss()(prediction, DiffusionTarget(values, torch.tensor([1.0, 0.5])))
    assert float(loss) == pytest.approx((4 + 4.5) / 2)


def test_conditions_travel_with_the_batch() -> None:
    batch = {"image": images(), "label": torch.ones(2, 1, 16, 16), "position": torch.tensor([0.25, 0.75])}
    prepare = DiffusionPrepareBatch(build_noise_scheduler(), condition="slice_position")
    expected = position_condition(batch["position"])["class_labels"]
    assert torch.equal(prepare(batch)[3]["class_labels"], expected)
    prepare = DiffusionPrepareBatch(build_noise_scheduler(), 2, condition="label_map", num_classes=2)
    assert torch.equal(prepare(batch)[3]["label_map"], torch.ones(2, 4, 8, 8))

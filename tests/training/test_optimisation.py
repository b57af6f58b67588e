from __future__ import annotations

import math

import pytest
import torch
from monai.engines import SupervisedTrainer
from monai.losses import DiceCELoss
from monai.optimizers import WarmupCosineSchedule

from tskd_monai.networks.teacher_builder import build_teacher
from tskd_monai.training.history import TrainingHistory
from tskd_monai.training.optimisation import (
    ScheduleLearningRate,
    lr_schedule,
    teacher_parameters,
    trainable_parameters,
)

STEPS = 100


def optimizer(rate: float = 0.2) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)


def rates(name: str, steps: int = STEPS) -> list[float]:
    """Returns the learning rate of each step, and the one after the last."""
    stepped = optimizer()
    schedule = lr_schedule(stepped, steps, name)
    found = []
    for _ in range(steps + 1):
        found.append(stepped.param_groups[0]["lr"])
        stepped.step()
        schedule.step()
    return found


@pytest.mark.parametrize("name", ["cosine", "poly"])
def test_rates_rise_over_a_twentieth_and_fall_to_zero(name: str) -> None:
    found = rates(name)
    assert found[:6] == pytest.approx([0.2 * step / 5 for step in range(6)])
    assert all(before > after for before, after in zip(found[5:-1], found[6:], strict=True))
    assert found[-1] == 0


def test_cosine_is_that_of_monai() -> None:
    reference = optimizer()
    schedule = WarmupCosineSchedule(reference, warmup_steps=5, t_total=STEPS)
    for found in rates("cosine"):
        assert found == pytest.approx(reference.param_groups[0]["lr"], abs=1e-12)
        reference.step()
        schedule.step()


def test_a_longer_run_decays_to_its_own_end_and_the_rate_stays_at_zero_there() -> None:
    first, longer = lr_schedule(optimizer(), STEPS), lr_schedule(optimizer(), 2 * STEPS)
    for _ in range(STEPS):
        first.optimizer.step()
        first.step()
    longer.load_state_dict(first.state_dict())
    rates = []
    for _ in range(STEPS + 2):
        longer.optimizer.step()
        longer.step()
        rates.extend(longer.get_last_lr())
    assert rates[0] == pytest.approx(0.2 * 0.5 * (1 + math.cos(math.pi * 91 / 190)))
    assert all(before > after for before, after in zip(rates[: STEPS - 1], rates[1:STEPS], strict=True))
    assert rates[STEPS - 1 :] == [0, 0, 0]


def test_poly_falls_with_the_power_of_0_9() -> None:
    assert rates("poly")[24] == pytest.approx(0.2 * (1 - 19 / 95) ** 0.9)


def test_a_schedule_resumes_where_it_was() -> None:
    first, second = lr_schedule(optimizer(), STEPS, "poly"), lr_schedule(optimizer(), STEPS, "poly")
    for _ in range(40):
        first.optimizer.step()
        first.step()
    second.load_state_dict(first.state_dict())
    second.optimizer.step()
    first.step(), second.step()
    assert second.get_last_lr() == first.get_last_lr() == pytest.approx([rates("poly")[41]])


def test_an_unknown_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match="Expected --lr_schedule cosine or poly, found linear"):
        lr_schedule(optimizer(), STEPS, "linear")


def test_only_what_needs_a_gradient_is_optimised() -> None:
    network = torch.nn.Linear(2, 3)
    network.weight.requires_grad_(False)
    assert [value.shape for value in trainable_parameters(network)] == [(3,)]


class Accumulation:
    """A training run of 2 epochs of 3 optimiser steps on 8 images each, in batches of `batch_size`.

    The loss is additive: its Dice is per image.
    """

    def __init__(self, folder, batch_size: int) -> None:
        torch.manual_seed(0)
        self.network = torch.nn.Conv2d(1, 2, 3, padding=1)
        images = torch.rand(24, 1, 8, 8)
        batches = [{"image": part, "label": (part > 0.5).float()} for part in images.split(batch_size)]
        stepped = torch.optim.AdamW(self.network.parameters(), lr=0.05)
        steps = 8 // batch_size
        self.history = TrainingHistory(folder / f"{batch_size}.jsonl", stepped)
        self.trainer = SupervisedTrainer(
            device=torch.device("cpu"),
            max_epochs=2,
            train_data_loader=batches,
            network=self.network,
            optimizer=stepped,
            loss_function=DiceCELoss(to_onehot_y=True, softmax=True),
            train_handlers=[ScheduleLearningRate(lr_schedule(stepped, 6, "poly"), steps), self.history],
            accumulation_steps=steps,
        )
        self.trainer.run()


def test_accumulated_batches_train_like_one_large_batch(tmp_path) -> None:
    whole, parts = Accumulation(tmp_path, 8), Accumulation(tmp_path, 2)
    assert (whole.trainer.state.iteration, parts.trainer.state.iteration) == (6, 24)
    torch.testing.assert_close(parts.network.weight, whole.network.weight, rtol=0, atol=1e-6)
    for one, other in zip(whole.history.rows, parts.history.rows, strict=True):
        assert other["train_loss"] == pytest.approx(one["train_loss"], abs=1e-6)
        assert other["learning_rate"] == one["learning_rate"]
    assert whole.history.rows[-1]["learning_rate"] == 0
    assert whole.history.rows[0]["train_loss"] > whole.history.rows[1]["train_loss"]


@pytest.mark.parametrize(("tuning", "groups"), [("lora", 2), ("full", 2), ("decoder", 1)])
def test_the_encoder_can_learn_at_a_rate_of_its_own(tuning: str, groups: int) -> None:
    teacher = build_teacher(
        encoder="sam_demo", encoder_weights="random", image_size=32, num_classes=2, tuning=tuning, rank=2
    )
    optimizer = torch.optim.AdamW(teacher_parameters(teacher, encoder_learning_rate=0.1), lr=0.2)
    assert [group["lr"] for group in optimizer.param_groups] == [0.2, 0.1][:groups]
    grouped = [value for group in optimizer.param_groups for value in group["params"]]
    assert {id(value) for value in grouped} == {id(value) for value in trainable_parameters(teacher)}
    assert {group["lr"] for group in torch.optim.AdamW(teacher_parameters(teacher), lr=0.2).param_groups} == {0.2}

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import Dataset
from monai.engines import SupervisedEvaluator
from monai.handlers import ValidationHandler
from monai.networks.nets import UNet
from torch.nn.functional import pad

from tskd_monai.data.task import Task
from tskd_monai.training.validation import ValidateEnds, dice_evaluator, slice_inferer, validation_volumes


def validated_epochs(max_epochs: int, interval: int, initial: bool, start: int = 0) -> tuple[list[int], int]:
    """Returns the epochs of the validations that a training run ends, and how many passes over the data they took."""
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=[{"image": torch.zeros(1, 1, 2), "label": torch.zeros(1, 1, 2)}],
        network=torch.nn.Identity(),
    )
    epochs: list[int] = []
    passes: list[int] = []
    evaluator.add_event_handler(Events.COMPLETED, lambda: epochs.append(evaluator.state.epoch))
    evaluator.add_event_handler(Events.ITERATION_COMPLETED, lambda: passes.append(1))
    trainer = Engine(lambda engine, batch: None)

    def go_on() -> None:
        trainer.state.epoch, trainer.state.iteration = start, start

    trainer.add_event_handler(Events.STARTED, go_on)
    ValidationHandler(interval, evaluator).attach(trainer)
    ValidateEnds(evaluator, interval, initial).attach(trainer)
    trainer.run([0], max_epochs=max_epochs)
    return epochs, len(passes)


@pytest.mark.parametrize(
    ("max_epochs", "interval", "expected"), [(5, 2, [2, 4, 5]), (4, 2, [2, 4]), (1, 3, [1]), (2, 1, [1, 2])]
)
def test_the_last_epoch_is_validated_once(max_epochs: int, interval: int, expected: list[int]) -> None:
    assert validated_epochs(max_epochs, interval, initial=False) == (expected, len(expected))


def test_the_network_that_training_starts_from_is_validated_once() -> None:
    assert validated_epochs(3, 2, initial=True) == ([0, 2, 3], 3)


def test_a_resumed_training_has_been_validated_at_its_start() -> None:
    assert validated_epochs(5, 3, initial=True, start=2) == ([3, 5], 2)


def double(item: dict[str, Any]) -> dict[str, Any]:
    return {**item, "image": 2 * item["image"]}


def test_validation_volumes_are_preprocessed(caplog: pytest.LogCaptureFixture) -> None:
    dataset = validation_volumes([{"image": 3}, {"image": 4}], double, [{"image": 5}])
    assert [item["image"] for item in dataset] == [6, 8]
    assert not caplog.records


def test_without_any_the_training_volumes_are_validated_on_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        dataset = validation_volumes([], double, [{"image": 5}])
    assert [item["image"] for item in dataset] == [10]
    assert "chosen on the 1 training image(s)" in caplog.text


MakeTask = Callable[..., Task]


@pytest.fixture
def network() -> UNet:
    torch.manual_seed(0)
    return UNet(2, 1, 3, channels=(4, 8), strides=(2,)).eval()


class ClassNetwork(torch.nn.Module):
    """A network for images that encode classes: logits of the class, after a change of it."""

    def __init__(self, change: dict[int, int] | None = None) -> None:
        super().__init__()
        self.change = change or {}

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        classes = torch.as_tensor(images)[:, 0].long()
        changed = classes.clone()
        for old, new in self.change.items():
            changed[classes == old] = new
        return torch.nn.functional.one_hot(changed, 3).movedim(-1, 1).float()


def case(*present: int) -> dict[str, torch.Tensor]:
    """Return a volume (1, 32, 48, 3) with a block of each class, equal in image and label."""
    label = torch.zeros(1, 32, 48, 3)
    for value in present:
        label[:, 4:20, 20 * value - 16 : 20 * value - 6, 1:] = value
    return {"image": label.clone(), "label": label}


def mean_dice(task: Task, network: torch.nn.Module, *cases: dict[str, torch.Tensor]) -> float:
    evaluator = dice_evaluator(network, Dataset(list(cases)), slice_inferer(task), task, "cpu")
    evaluator.run()
    return float(evaluator.state.metrics["val_mean_dice"])


@torch.no_grad()
def test_slice_that_fits_is_what_the_network_gives(make_task: MakeTask, network: UNet) -> None:
    volume = torch.rand(1, 1, 32, 48, 5)
    found = slice_inferer(make_task(), sw_batch_size=1)(volume, network)
    assert found.shape == (1, 3, 32, 48, 5)
    for index in range(5):
        torch.testing.assert_close(found[..., index], network(volume[..., index]), rtol=0, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_batch_of_windows_does_not_matter(make_task: MakeTask, network: UNet, batch: int) -> None:
    volume = torch.rand(1, 1, 40, 60, 5)
    one = slice_inferer(make_task(), sw_batch_size=1)(volume, network)
    torch.testing.assert_close(slice_inferer(make_task(), sw_batch_size=batch)(volume, network), one, rtol=0, atol=1e-5)


@torch.no_grad()
def test_smaller_slice_is_padded_and_cut_back(make_task: MakeTask, network: UNet) -> None:
    volume = torch.rand(1, 1, 27, 48, 2)
    found = slice_inferer(make_task())(volume, network)
    expected = network(pad(volume[..., 1], (0, 0, 2, 3)))[:, :, 2:29]
    torch.testing.assert_close(found[..., 1], expected, rtol=0, atol=1e-6)


@torch.no_grad()
def test_windows_of_a_larger_slice_join_without_a_seam(make_task: MakeTask) -> None:
    volume = torch.randint(0, 3, (1, 1, 70, 110, 3)).float()
    found = slice_inferer(make_task())(volume, ClassNetwork())
    assert torch.equal(found.argmax(dim=1), volume[:, 0].long())


def test_perfect_network_has_a_dice_of_one(make_task: MakeTask) -> None:
    assert mean_dice(make_task(), ClassNetwork(), case(1, 2), case(2)) == 1.0


def test_classes_that_a_case_lacks_are_left_out_of_its_mean(make_task: MakeTask) -> None:
    lost = ClassNetwork({1: 0})
    assert mean_dice(make_task(), lost, case(1, 2)) == 0.5
    assert mean_dice(make_task(), lost, case(2)) == 1.0
    assert mean_dice(make_task(), lost, case(1)) == 0.0
    # Cases have equal weight, however many classes they have.
    assert mean_dice(make_task(), lost, case(1, 2), case(2)) == 0.75


def test_dice_is_that_of_the_whole_volume(make_task: MakeTask) -> None:
    item = case(1)
    item["image"][..., 1] = 0  # one of the two slices with the organ is missed
    assert mean_dice(make_task(), ClassNetwork(), item) == pytest.approx(2 / 3)


def test_label_beyond_the_tasks_classes_is_not_scored(make_task: MakeTask) -> None:
    item = case(1)
    item["label"][0, 0, 0, 0] = 3
    with pytest.raises(RuntimeError, match="applying transform"):
        mean_dice(make_task(), ClassNetwork(), item)

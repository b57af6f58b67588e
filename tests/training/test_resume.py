"""A training run that is stopped, killed or terminated and restarted ends like an uninterrupted one.

Run as a program, this file is the training run that the tests kill: `python test_resume.py FOLDER MOMENT`.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import DataLoader
from monai.engines import SupervisedTrainer
from monai.handlers import LrScheduleHandler, ValidationHandler
from monai.inferers import SimpleInferer
from monai.losses import DiceCELoss
from monai.networks.nets import UNet

from tests.support.fork_server import python_command
from tests.support.paths import ROOT
from tskd_monai.data.slices import SliceDataset
from tskd_monai.data.task import Intensity, Label, Task
from tskd_monai.training.checkpoint import BestCheckpoint, EpochCheckpoint, Resume
from tskd_monai.training.determinism import ReseedEachEpoch
from tskd_monai.training.history import TrainingHistory
from tskd_monai.training.optimisation import lr_schedule
from tskd_monai.training.samplers import SliceSampler
from tskd_monai.training.signals import StopOnSignal
from tskd_monai.training.validation import ValidateEnds, dice_evaluator, slice_inferer
from tskd_monai.transforms.pipelines import augmentation

EPOCHS, EPOCH_LENGTH, BATCH_SIZE, VAL_INTERVAL, SEED = 4, 3, 4, 3, 7
TASK = Task(
    name="disc",
    labels=(Label(0, "background"), Label(1, "disc")),
    channels=1,
    image_size=(16, 16),
    pixdim=(1.0, 1.0),
    axcodes="PLS",
    intensity=Intensity("percentile", 1.0, 99.0),
)


@dataclass
class Training:
    """A trainer and the parts of it that a test examines."""

    trainer: SupervisedTrainer
    network: UNet
    optimizer: torch.optim.Optimizer
    scheduler: Any
    folder: Path

    def state(self) -> dict[str, Any]:
        """Returns everything that must be equal, bit for bit."""
        best = torch.load(self.folder / "best.pt", weights_only=True)
        rows = [json.loads(line) for line in (self.folder / "history.jsonl").read_text().splitlines()]
        for row in rows:
            del row["seconds"]
        parts = {"network": self.network.state_dict(), "best": best, "optimizer": self.optimizer.state_dict()}
        return copy.deepcopy({**parts, "scheduler": self.scheduler.state_dict(), "history": rows})


def volume(entry: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return a noisy disc as image and label (1, 16, 16, 4)."""
    generator = torch.Generator().manual_seed(entry["seed"])
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    row, column = torch.randint(5, 11, (2,), generator=generator)
    label = ((rows - row) ** 2 + (columns - column) ** 2 < 16)[None, ..., None].repeat(1, 1, 1, 4)
    noise = torch.rand(label.shape, generator=generator)
    return {"image": 0.6 * label + 0.4 * noise, "label": label.to(torch.uint8)}


def build(folder: Path, num_workers: int = 0, reseed: bool = True, neighbours: int = 0) -> Training:
    """Returns a training run with the handlers of the bundles, in their order."""
    torch.manual_seed(SEED)
    # Batch norm has buffers, and dropout draws in this process, not in the loader's.
    task = replace(TASK, neighbours=neighbours)
    network = UNet(2, task.student_channels, task.num_classes, channels=(4, 8), strides=(2,), norm="batch", dropout=0.2)
    dataset = SliceDataset([{"seed": seed} for seed in range(3)], volume, augmentation(), neighbours=neighbours)
    sampler = SliceSampler(len(dataset), EPOCH_LENGTH * BATCH_SIZE, dataset.classes_present(), 0.5, SEED)
    loader = DataLoader(dataset, batch_size=BATCH_SIZE, sampler=sampler, num_workers=num_workers)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    scheduler = lr_schedule(optimizer, EPOCHS * EPOCH_LENGTH)
    best = BestCheckpoint(folder / "best.pt", network)
    validation = [volume({"seed": 50})]
    inferer = slice_inferer(task, neighbours=neighbours)
    evaluator = dice_evaluator(network, validation, inferer, task, "cpu", handlers=[best])
    history = TrainingHistory(folder / "history.jsonl", optimizer, evaluator)
    saved = {"network": network, "optimizer": optimizer, "scheduler": scheduler, "history": history, "best": best}
    checkpoint = EpochCheckpoint(folder / "last.pt", saved, task.student_hash)
    handlers = [
        Resume(checkpoint),
        *([ReseedEachEpoch(SEED, dataset, sampler)] if reseed else []),
        LrScheduleHandler(scheduler, print_lr=False, epoch_level=False),
        ValidationHandler(interval=VAL_INTERVAL, validator=evaluator),
        ValidateEnds(evaluator, VAL_INTERVAL, initial=True),
        history,
        checkpoint,
        StopOnSignal(),
    ]
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=EPOCHS,
        train_data_loader=loader,
        network=network,
        optimizer=optimizer,
        loss_function=DiceCELoss(to_onehot_y=True, softmax=True),
        inferer=SimpleInferer(),
        train_handlers=handlers,
        decollate=False,
    )
    return Training(trainer, network, optimizer, scheduler, folder)


def run(folder: Path, stop_after: int | None = None, **settings: Any) -> Training:
    """Train to the end, or until an epoch is over."""
    training = build(folder, **settings)
    if stop_after is not None:
        training.trainer.add_event_handler(Events.EPOCH_COMPLETED(once=stop_after), _terminate)
    training.trainer.run()
    return training


def _terminate(engine: Engine) -> None:
    engine.terminate()


def differences(first: Any, second: Any, name: str = "") -> list[str]:
    """Return the names of the leaves of two nested states that are not equal, bit for bit."""
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        keys = sorted({*first, *second}, key=str)
        return [leaf for key in keys for leaf in differences(first.get(key), second.get(key), f"{name}/{key}")]
    if isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)) and len(first) == len(second):
        pairs = enumerate(zip(first, second, strict=True))
        return [leaf for index, pair in pairs for leaf in differences(*pair, f"{name}/{index}")]
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        return [] if torch.equal(first, second) else [name]
    return [] if first == second else [name]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Makes sums use the same order in this process and in those that it starts."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], dict[str, Any]]:
    """Returns the function that gives the result of an uninterrupted training run."""
    ends: dict[int, dict[str, Any]] = {}

    def end(num_workers: int) -> dict[str, Any]:
        if num_workers not in ends:
            ends[num_workers] = run(tmp_path_factory.mktemp("whole"), num_workers=num_workers).state()
        return ends[num_workers]

    return end


def start_program(folder: Path, *moment: str) -> subprocess.CompletedProcess[str]:
    """Trains in a separate process, which receives a signal at the given moment."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [python_command(), __file__, str(folder), *moment]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def saved_epoch(folder: Path) -> int:
    return torch.load(folder / "last.pt", weights_only=True)["progress"]["epoch"]


def test_training_learns_and_is_recorded(uninterrupted: Callable[[int], dict[str, Any]]) -> None:
    end = uninterrupted(0)
    assert [row["epoch"] for row in end["history"]] == [1, 2, 3, 4]
    assert [row["iteration"] for row in end["history"]] == [3, 6, 9, 12]
    assert end["history"][-1]["train_loss"] < end["history"][0]["train_loss"]
    assert end["scheduler"]["last_epoch"] == EPOCHS * EPOCH_LENGTH


@pytest.mark.parametrize(("num_workers", "epochs"), [(0, 1), (0, 2), (0, 3), (2, 2)])
def test_stopped_and_resumed_is_uninterrupted(
    tmp_path: Path, uninterrupted: Callable[[int], dict[str, Any]], num_workers: int, epochs: int
) -> None:
    run(tmp_path, stop_after=epochs, num_workers=num_workers)
    assert saved_epoch(tmp_path) == epochs
    resumed = run(tmp_path, num_workers=num_workers)
    assert resumed.trainer.state.iteration == EPOCHS * EPOCH_LENGTH
    assert differences(resumed.state(), uninterrupted(num_workers)) == []


def test_each_stop_may_be_followed_by_another(tmp_path: Path, uninterrupted: Callable[[int], dict[str, Any]]) -> None:
    for epochs in range(1, EPOCHS):
        run(tmp_path, stop_after=epochs)
    assert differences(run(tmp_path).state(), uninterrupted(0)) == []


def test_a_student_of_neighbours_resumes_alike_and_not_as_another(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", neighbours=1).state()
    run(tmp_path / "parts", stop_after=2, neighbours=1)
    with pytest.raises(ValueError, match=r"last\.pt was trained for another task"):
        run(tmp_path / "parts", neighbours=2)
    assert differences(run(tmp_path / "parts", neighbours=1).state(), whole) == []


def test_finished_training_started_again_changes_nothing(tmp_path: Path) -> None:
    end = run(tmp_path).state()
    again = run(tmp_path)
    assert again.trainer.state.epoch == EPOCHS
    assert differences(again.state(), end) == []


def test_epochs_differ_from_each_other(uninterrupted: Callable[[int], dict[str, Any]]) -> None:
    losses = [row["train_loss"] for row in uninterrupted(0)["history"]]
    assert len(set(losses)) == EPOCHS


def test_reseeding_is_what_makes_it_equal(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", reseed=False).state()
    run(tmp_path / "parts", stop_after=2, reseed=False)
    assert differences(run(tmp_path / "parts", reseed=False).state()["network"], whole["network"])


@pytest.mark.slow
def test_killed_in_mid_epoch_and_started_again(tmp_path: Path, uninterrupted: Callable[[int], dict[str, Any]]) -> None:
    killed = start_program(tmp_path, "SIGKILL", "iteration", "8")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert saved_epoch(tmp_path) == 2
    finished = start_program(tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert "Resuming after epoch 2, from last.pt." in finished.stderr
    content = torch.load(tmp_path / "last.pt", weights_only=True)
    end = uninterrupted(0)
    assert differences(content["network"], end["network"]) == []
    assert differences(content["optimizer"], end["optimizer"]) == []
    assert differences(torch.load(tmp_path / "best.pt", weights_only=True), end["best"]) == []


@pytest.mark.slow
def test_killed_while_saving(tmp_path: Path, uninterrupted: Callable[[int], dict[str, Any]]) -> None:
    killed = start_program(tmp_path, "SIGKILL", "saving", "2")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert saved_epoch(tmp_path) == 1
    assert differences(run(tmp_path).state(), uninterrupted(0)) == []


@pytest.mark.slow
def test_terminated_politely(tmp_path: Path, uninterrupted: Callable[[int], dict[str, Any]]) -> None:
    terminated = start_program(tmp_path, "SIGTERM", "iteration", "8")
    assert terminated.returncode == 143, terminated.stderr
    message = "Stopped by SIGTERM in epoch 3. Epoch 2 is saved; run the same command to resume."
    assert message in terminated.stderr
    assert "Traceback" not in terminated.stderr
    assert saved_epoch(tmp_path) == 2
    assert differences(run(tmp_path).state(), uninterrupted(0)) == []


def main(folder: Path, number: signal.Signals | None = None, moment: str = "", count: int = 0) -> None:
    """Train, and send this process a signal at the start of an iteration or with a checkpoint half written."""
    training = build(folder)
    original, saves = torch.save, []

    def die() -> None:
        assert number is not None
        os.kill(os.getpid(), number)

    def save_half(content: Any, file: BinaryIO) -> None:
        original(content, file)
        saves.append(file.name.endswith("last.pt"))
        if saves[-1] and sum(saves) == count:
            file.truncate(1000)
            file.flush()
            die()

    if moment == "saving":
        torch.save = save_half
    if moment == "iteration":
        training.trainer.add_event_handler(Events.ITERATION_STARTED(once=count), die)
    training.trainer.run()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    torch.set_num_threads(1)
    if len(sys.argv) == 2:
        main(Path(sys.argv[1]))
    else:
        main(Path(sys.argv[1]), signal.Signals[sys.argv[2]], sys.argv[3], int(sys.argv[4]))

"""Two processes with batches of b train like one with batches of 2 b, even if one of them is killed.

Run as a program under torchrun, this file is one process of the training run: `test_distributed.py FOLDER BATCH_SIZE`,
and with a third argument the second process is killed in that iteration.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import DataLoader
from monai.engines import SupervisedTrainer
from monai.handlers import ValidationHandler
from monai.losses import DiceCELoss
from monai.networks.nets import UNet

from tests.support.fork_server import python_command
from tests.support.paths import ROOT
from tskd_monai.data.slices import SliceDataset
from tskd_monai.data.task import Intensity, Label, Task
from tskd_monai.training import distributed
from tskd_monai.training.checkpoint import BestCheckpoint, EpochCheckpoint, Resume
from tskd_monai.training.determinism import ReseedEachEpoch
from tskd_monai.training.distributed import (
    distribute,
    process_device,
    process_share,
    start_process_group,
    stop_process_group,
)
from tskd_monai.training.early_stopping import EarlyStopping
from tskd_monai.training.history import TrainingHistory
from tskd_monai.training.optimisation import ScheduleLearningRate, lr_schedule
from tskd_monai.training.precision import PrecisionInferer
from tskd_monai.training.samplers import SliceSampler
from tskd_monai.training.signals import StopOnSignal
from tskd_monai.training.validation import dice_evaluator, slice_inferer

EPOCHS, EPOCH_LENGTH, SEED = 4, 3, 7
LONGEST_END = 60
"""Seconds in which the others must end after one process was killed."""
TASK = Task(
    name="disc",
    labels=(Label(0, "background"), Label(1, "disc")),
    channels=1,
    image_size=(16, 16),
    pixdim=(1.0, 1.0),
    axcodes="PLS",
    intensity=Intensity("percentile", 1.0, 99.0),
)


def volume(entry: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return a noisy disc as image and label (1, 16, 16, 4)."""
    generator = torch.Generator().manual_seed(entry["seed"])
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    row, column = torch.randint(5, 11, (2,), generator=generator)
    label = ((rows - row) ** 2 + (columns - column) ** 2 < 16)[None, ..., None].repeat(1, 1, 1, 4)
    noise = torch.rand(label.shape, generator=generator)
    return {"image": 0.6 * label + 0.4 * noise, "label": label.to(torch.uint8)}


def train(folder: Path, batch_size: int, killed_in: int | None = None) -> None:
    """Trains with the components of the bundle, and saves this process's weights and validation metrics.

    Nothing is augmented, since each process draws its own; the network has no batch norm and the Dice loss is per
    image, because means over a batch are not means over its halves.
    """
    rank = os.environ.get("RANK", "0")
    torch.manual_seed(int(rank))  # the processes' networks differ until the first one's weights are broadcast
    inner = UNet(2, 1, TASK.num_classes, channels=(4, 8), strides=(2,), norm="instance")
    if "RANK" in os.environ:
        start_process_group()
        network = distribute(inner, process_device())
    else:
        network = inner
    dataset = SliceDataset([{"seed": seed} for seed in range(3)], volume)
    sampler = SliceSampler(len(dataset), EPOCH_LENGTH * batch_size, dataset.classes_present(), 0.5, SEED)
    # Not Adam: it divides by the gradient's magnitude, and some of these gradients are rounding errors near 0.
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5, momentum=0.9)
    scheduler = lr_schedule(optimizer, EPOCHS * EPOCH_LENGTH)
    validation = process_share([volume({"seed": seed}) for seed in (50, 51, 52)])
    best = BestCheckpoint(folder / "best.pt", inner)
    evaluator = dice_evaluator(inner, validation, slice_inferer(TASK), TASK, "cpu", [best])
    history = TrainingHistory(folder / "history.jsonl", optimizer, evaluator)
    save_dict = {"network": inner, "optimizer": optimizer, "scheduler": scheduler, "history": history, "best": best}
    checkpoint = EpochCheckpoint(folder / "last.pt", save_dict, TASK.hash)
    handlers = [
        Resume(checkpoint),
        ReseedEachEpoch(SEED, dataset, sampler),
        ScheduleLearningRate(scheduler),
        ValidationHandler(interval=1, validator=evaluator),
        history,
        EarlyStopping(history, patience=3),
        checkpoint,
        StopOnSignal(),
    ]
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=EPOCHS,
        train_data_loader=DataLoader(dataset, batch_size=batch_size, sampler=sampler),
        network=network,
        optimizer=optimizer,
        loss_function=DiceCELoss(to_onehot_y=True, softmax=True, batch=False),
        inferer=PrecisionInferer("float32"),
        train_handlers=handlers,
    )
    own_losses: list[float] = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: own_losses.append(_own_loss(engine)))
    if killed_in is not None and rank == "1":
        trainer.add_event_handler(Events.ITERATION_STARTED(once=killed_in), _die)
    trainer.run()
    state = {"weights": inner.state_dict(), "rows": history.rows, "cases": len(validation), "losses": own_losses}
    torch.save(state, folder / f"rank{rank}.pt")
    if "RANK" in os.environ:
        stop_process_group()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _own_loss(engine: Engine) -> float:
    return float(engine.state.output[0]["loss"])


def train_in_two(folder: Path, *arguments: int) -> subprocess.CompletedProcess[str]:
    """Train in two processes under torchrun."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nnodes=1", "--nproc_per_node=2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [python_command(), *launcher, __file__, str(folder), *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)


def left(folder: Path, rank: int) -> dict[str, Any]:
    """Returns what a process of a training run saved."""
    return torch.load(folder / f"rank{rank}.pt", weights_only=True)


@pytest.mark.slow
def test_two_processes_train_like_one_with_twice_the_batch(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    train(tmp_path / "one", 4)
    done = train_in_two(tmp_path / "two", 2)
    assert done.returncode == 0, done.stderr[-3000:]
    one, first, second = left(tmp_path / "one", 0), left(tmp_path / "two", 0), left(tmp_path / "two", 1)
    assert (one["cases"], first["cases"], second["cases"]) == (3, 2, 1)
    for name, expected in one["weights"].items():
        torch.testing.assert_close(first["weights"][name], expected, rtol=0, atol=1e-5)
        assert torch.equal(second["weights"][name], first["weights"][name])
    assert len(one["rows"]) == EPOCHS
    assert one["rows"][-1]["train_loss"] < one["rows"][0]["train_loss"]
    for name in ("train_loss", "learning_rate", "val_mean_dice"):
        curve = [row[name] for row in one["rows"]]
        assert [row[name] for row in first["rows"]] == pytest.approx(curve, abs=1e-5)
        assert [row[name] for row in second["rows"]] == [row[name] for row in first["rows"]]
    # A single process has a different curve, so the agreement of the mean is not a coincidence.
    assert first["losses"] != pytest.approx(second["losses"], abs=1e-3)
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == [
        "best.pt",
        "history.jsonl",
        "last.pt",
        "rank0.pt",
        "rank1.pt",
    ]
    written = [json.loads(line) for line in (tmp_path / "two" / "history.jsonl").read_text().splitlines()]
    assert written == first["rows"]


@pytest.mark.slow
def test_a_killed_process_ends_the_other_and_a_single_one_resumes(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    train(tmp_path / "one", 4)
    ended = train_in_two(tmp_path / "two", 2, 8)
    assert ended.returncode != 0
    assert time.time() - (tmp_path / "two" / "last.pt").stat().st_mtime < LONGEST_END
    assert "Signal 9 (SIGKILL) received" in ended.stderr
    assert torch.load(tmp_path / "two" / "last.pt", weights_only=True)["progress"]["epoch"] == 2
    train(tmp_path / "two", 4)
    one, resumed = left(tmp_path / "one", 0), left(tmp_path / "two", 0)
    assert len(resumed["losses"]) == (EPOCHS - 2) * EPOCH_LENGTH
    for name, expected in one["weights"].items():
        torch.testing.assert_close(resumed["weights"][name], expected, rtol=0, atol=1e-5)
    for name in ("train_loss", "learning_rate", "val_mean_dice"):
        assert [row[name] for row in resumed["rows"]] == pytest.approx([row[name] for row in one["rows"]], abs=1e-5)


@pytest.mark.parametrize(("entries", "count"), [(5, 2), (2, 2), (7, 3), (4, 1)])
def test_each_case_is_validated_once(monkeypatch: pytest.MonkeyPatch, entries: int, count: int) -> None:
    shares = []
    for rank in range(count):
        monkeypatch.setattr(distributed.idist, "get_rank", lambda rank=rank: rank)
        monkeypatch.setattr(distributed.idist, "get_world_size", lambda: count)
        shares.append(process_share(range(entries)))
    assert sorted(case for share in shares for case in share) == list(range(entries))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_where_cases_are_few_every_process_has_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed.idist, "get_world_size", lambda: 3)
    monkeypatch.setattr(distributed.idist, "get_rank", lambda: 2)
    assert process_share(["a", "b"]) == ["a", "b"]


def test_without_torchrun_the_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(RuntimeError, match="Expected several processes under torchrun, found none. Start with: torch"):
        start_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(Path(sys.argv[1]), *map(int, sys.argv[2:]))

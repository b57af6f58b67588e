from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn

from tskd_monai.training import checkpoint as checkpoint_module
from tskd_monai.training.checkpoint import (
    Attach,
    BestCheckpoint,
    EpochCheckpoint,
    Resume,
    TrainableWeights,
    first_not_finite,
    load_checkpoint,
    save_checkpoint,
)


class Counter:
    """A part of a training run whose state is one number."""

    def __init__(self, value: int = 0) -> None:
        self.value = value

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.value = state_dict["value"]


class Touch:
    """Writes a file when unpickled without restrictions."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def trainer_with(checkpoint: EpochCheckpoint, counter: Counter) -> Engine:
    """Returns an engine that increments the counter in each of its two iterations per epoch."""

    def step(engine: Engine, batch: int) -> None:
        counter.value += 1

    engine = Engine(step)
    Resume(checkpoint).attach(engine)
    checkpoint.attach(engine)
    return engine


def validated(checkpoint: BestCheckpoint, epoch: int, metric: float) -> None:
    """Reports a validation to a checkpoint as its engine would."""
    engine = Engine(lambda engine, batch: None)
    checkpoint.attach(engine)
    engine.state.metrics = {"val_mean_dice": metric}
    engine.state.epoch = epoch - 1
    engine.run([0], max_epochs=epoch)


def test_content_comes_back_as_it_was(tmp_path: Path) -> None:
    content = {"weights": torch.randn(3, 2), "rows": [{"epoch": 1, "loss": 0.5}], "best": None, "name": "a"}
    save_checkpoint(content, tmp_path / "new" / "last.pt")
    loaded = load_checkpoint(tmp_path / "new" / "last.pt")
    assert torch.equal(loaded.pop("weights"), content.pop("weights"))
    assert loaded == content


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"<html>Sign in</html>", "a web page"),
        (b"", "an empty file"),
        (b"PK\x03\x04" + bytes(100), "a file that is damaged or truncated"),
    ],
)
def test_what_is_no_checkpoint_is_named_and_may_be_removed(tmp_path: Path, content: bytes, found: str) -> None:
    (tmp_path / "last.pt").write_bytes(content)
    with pytest.raises(ValueError, match=rf"readable checkpoint .*last\.pt, found {found}.* Remove it to start again"):
        load_checkpoint(tmp_path / "last.pt")


def test_a_checkpoint_that_could_run_code_is_refused_without_advice_to_run_it(tmp_path: Path) -> None:
    torch.save({"network": Touch(tmp_path / "ran")}, tmp_path / "last.pt")
    with pytest.raises(ValueError, match="holds more than tensors, which could run code and is not loaded") as raised:
        load_checkpoint(tmp_path / "last.pt")
    said = "".join(traceback.format_exception(raised.value))
    assert "weights_only" not in said.replace("weights_only=True", "")
    assert not (tmp_path / "ran").exists()


def test_save_that_breaks_off_leaves_the_former_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint({"epoch": 1}, tmp_path / "last.pt")

    def half(content: Any, file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoint_module.torch, "save", half)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint({"epoch": 2}, tmp_path / "last.pt")
    assert load_checkpoint(tmp_path / "last.pt") == {"epoch": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


def test_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"Expected a checkpoint at .*last\.pt, found none"):
        load_checkpoint(tmp_path / "last.pt")


@pytest.mark.parametrize("damage", ["text", "truncated"])
def test_unreadable_checkpoint_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint({"weights": torch.zeros(1000)}, path)
    path.write_bytes(b"no checkpoint" if damage == "text" else path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"(?s)readable checkpoint at .*last\.pt: .*Remove it to start again"):
        load_checkpoint(path)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    torch.save({"weights": Touch(tmp_path / "touched")}, tmp_path / "last.pt")
    with pytest.raises(ValueError, match="readable checkpoint"):
        load_checkpoint(tmp_path / "last.pt")
    assert not (tmp_path / "touched").exists()


def test_training_resumes_after_the_last_complete_epoch(tmp_path: Path) -> None:
    first = Counter()
    trainer_with(EpochCheckpoint(tmp_path / "last.pt", {"counter": first}, "a"), first).run([0, 1], max_epochs=2)
    second = Counter()
    engine = trainer_with(EpochCheckpoint(tmp_path / "last.pt", {"counter": second}, "a"), second)
    engine.run([0, 1], max_epochs=5)
    assert (engine.state.epoch, engine.state.iteration, second.value) == (5, 10, 10)
    assert load_checkpoint(tmp_path / "last.pt")["progress"] == {"epoch": 5, "iteration": 10}


def test_without_resume_training_restarts(tmp_path: Path) -> None:
    save_checkpoint({"counter": {"value": 50}, "progress": {}, "task_hash": "b"}, tmp_path / "last.pt")
    counter = Counter()
    checkpoint = EpochCheckpoint(tmp_path / "last.pt", {"counter": counter}, "a", resume=False)
    trainer_with(checkpoint, counter).run([0, 1], max_epochs=1)
    assert counter.value == 2


def test_only_the_first_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_module.idist, "get_rank", lambda: 1)
    counter = Counter()
    trainer_with(EpochCheckpoint(tmp_path / "last.pt", {"counter": counter}, "a"), counter).run([0], max_epochs=1)
    best = BestCheckpoint(tmp_path / "best.pt", nn.Linear(1, 1))
    validated(best, 1, 0.5)
    assert list(tmp_path.iterdir()) == []
    assert best.best_metric == 0.5


def test_another_task_is_refused(tmp_path: Path) -> None:
    counter = Counter()
    trainer_with(EpochCheckpoint(tmp_path / "last.pt", {"counter": counter}, "a" * 64), counter).run([0], max_epochs=1)
    other = trainer_with(EpochCheckpoint(tmp_path / "last.pt", {"counter": counter}, "b" * 64), counter)
    with pytest.raises(ValueError, match=r"another task: expected task hash b{12}, found a{12}\. Choose another --out"):
        other.run([0], max_epochs=2)
    assert counter.value == 1


def test_checkpoint_of_other_parts_is_refused(tmp_path: Path) -> None:
    counter = Counter()
    trainer_with(EpochCheckpoint(tmp_path / "last.pt", {"counter": counter}, "a"), counter).run([0], max_epochs=1)
    more = EpochCheckpoint(tmp_path / "last.pt", {"counter": counter, "ema": Counter()}, "a")
    with pytest.raises(ValueError, match=r"expected \['counter', 'ema'\], found no \['ema'\]"):
        trainer_with(more, counter).run([0], max_epochs=2)


def test_best_weights_are_those_of_the_first_best_validation(tmp_path: Path) -> None:
    network = nn.Linear(1, 1)
    best = BestCheckpoint(tmp_path / "best.pt", network)
    for epoch, metric in enumerate([0.3, 0.7, 0.7, 0.5], start=1):
        nn.init.constant_(network.weight, epoch)
        validated(best, epoch, metric)
    assert (best.best_metric, best.best_epoch) == (0.7, 2)
    assert load_checkpoint(tmp_path / "best.pt")["weight"].item() == 2


def test_a_worst_validation_is_better_than_none(tmp_path: Path) -> None:
    validated(BestCheckpoint(tmp_path / "best.pt", nn.Linear(1, 1)), 1, 0.0)
    assert (tmp_path / "best.pt").is_file()


def test_any_number_is_better_than_a_validation_without_one(tmp_path: Path) -> None:
    best = BestCheckpoint(tmp_path / "best.pt", nn.Linear(1, 1))
    validated(best, 1, float("nan"))
    validated(best, 2, 0.1)
    validated(best, 3, float("nan"))
    assert best.best_metric == 0.1 and best.best_epoch == 2


def test_best_knows_after_a_resume_what_to_beat(tmp_path: Path) -> None:
    first = BestCheckpoint(tmp_path / "best.pt", nn.Linear(1, 1))
    validated(first, 3, 0.8)
    before = (tmp_path / "best.pt").read_bytes()
    second = BestCheckpoint(tmp_path / "best.pt", nn.Linear(1, 1))
    second.load_state_dict(first.state_dict())
    validated(second, 4, 0.7)
    assert (second.best_metric, second.best_epoch) == (0.8, 3)
    assert (tmp_path / "best.pt").read_bytes() == before


def test_trainable_weights_are_kept_and_frozen_ones_left_out() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 2).requires_grad_(False), nn.Linear(2, 2))
    kept = {name: value.clone() for name, value in TrainableWeights(network).state_dict().items()}
    assert list(kept) == ["1.weight", "1.bias"]
    frozen = network[0].weight.clone()
    nn.init.zeros_(network[1].weight)
    TrainableWeights(network).load_state_dict(kept)
    assert torch.equal(network[1].weight, kept["1.weight"])
    assert torch.equal(network[0].weight, frozen)
    assert network[1].weight.requires_grad and network[1].weight.is_leaf


def test_weights_of_a_network_built_otherwise_are_refused() -> None:
    network = nn.Sequential(nn.Linear(2, 2).requires_grad_(False), nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"network built alike; these weights are on one side: \['0\.bias', '0\.w"):
        TrainableWeights(network).load_state_dict(network.state_dict())


def test_trainable_weights_of_another_shape_are_refused() -> None:
    network = nn.Linear(2, 2)
    before = network.weight.clone()
    with pytest.raises(ValueError, match=r"built alike: weight is \(2, 2\), found \(1, 2\)"):
        TrainableWeights(network).load_state_dict({"weight": torch.zeros(1, 2), "bias": torch.zeros(2)})
    assert torch.equal(network.weight, before)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_lost_do_not_replace_good_ones(tmp_path: Path, value: float) -> None:
    network = nn.Linear(1, 1)
    optimizer = torch.optim.AdamW(network.parameters())
    save_dict = {"network": network, "optimizer": optimizer}
    engine = Engine(lambda engine, batch: nn.init.constant_(network.weight, 2.0 if engine.state.epoch < 3 else value))
    EpochCheckpoint(tmp_path / "last.pt", save_dict, "a").attach(engine)
    message = r"network\.weight holds NaN or infinity after epoch 3, which is not saved: last\.pt is that of the last"
    with pytest.raises(ValueError, match=message):
        engine.run([0], max_epochs=4)
    content = load_checkpoint(tmp_path / "last.pt")
    assert content["progress"]["epoch"] == 2 and content["network"]["weight"].item() == 2.0


def test_numbers_that_are_not_finite_are_found_wherever_they_are() -> None:
    finite = {"step": torch.tensor(3), "mask": torch.tensor([True]), "name": "nan", "rows": [{"loss": float("nan")}]}
    assert first_not_finite(finite) is None
    assert first_not_finite({**finite, "state": {0: [torch.zeros(2), torch.tensor([1, torch.inf])]}}) == "state.0.1"


def test_a_folder_that_takes_no_file_is_named_before_the_first_step(tmp_path: Path) -> None:
    (tmp_path / "output").touch()
    counter = Counter()
    engine = trainer_with(EpochCheckpoint(tmp_path / "output" / "last.pt", {"counter": counter}, "a"), counter)
    with pytest.raises(OSError, match="Expected room and permission to write output, found: File exists; free some"):
        engine.run([0], max_epochs=1)
    assert counter.value == 0


# An interrupted run, a completed one, and one on other images, as MONAI Label starts them.


def run_of(path: Path, images: list[str], until_completed: bool = True) -> EpochCheckpoint:
    return EpochCheckpoint(path, {"counter": Counter()}, "task", run=images, until_completed=until_completed)


def interrupt_after_an_epoch(path: Path, images: list[str]) -> None:
    """Leaves the checkpoint of a run that was killed in its second epoch."""
    checkpoint = run_of(path, images)
    engine = trainer_with(checkpoint, checkpoint.save_dict["counter"])  # type: ignore[arg-type]

    @engine.on(Events.EPOCH_STARTED(once=2))
    def kill() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.run([0, 1], max_epochs=3)


def counted(checkpoint: EpochCheckpoint) -> tuple[int, int]:
    """Returns the total number of steps, and the number done now."""
    engine = trainer_with(checkpoint, checkpoint.save_dict["counter"])  # type: ignore[arg-type]
    done: list[int] = []
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda: done.append(1))
    engine.run([0, 1], max_epochs=3)
    return checkpoint.save_dict["counter"].value, len(done)  # type: ignore[attr-defined]


def test_an_interrupted_run_on_the_same_images_is_resumed(tmp_path: Path) -> None:
    interrupt_after_an_epoch(tmp_path / "last.pt", ["a", "b"])
    assert (tmp_path / "last.pt").is_file()
    assert counted(run_of(tmp_path / "last.pt", ["a", "b"])) == (6, 4)


def test_a_run_on_other_images_starts_at_the_first_epoch(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    interrupt_after_an_epoch(tmp_path / "last.pt", ["a", "b"])
    assert counted(run_of(tmp_path / "last.pt", ["a", "b", "c"])) == (6, 6)
    assert "last.pt is of a run on other images or settings; training starts at epoch 1." in caplog.text


def test_a_completed_run_is_trained_again_where_its_checkpoint_is_removed(tmp_path: Path) -> None:
    assert [counted(run_of(tmp_path / "last.pt", ["a"])) for _ in range(2)] == [(6, 6), (6, 6)]
    assert not (tmp_path / "last.pt").exists()
    kept = [counted(run_of(tmp_path / "last.pt", ["a"], until_completed=False)) for _ in range(2)]
    assert kept == [(6, 6), (6, 0)]


def test_the_checkpoint_holds_no_path_of_the_images(tmp_path: Path) -> None:
    interrupt_after_an_epoch(tmp_path / "last.pt", ["/home/Doe_Jane/scan.nii.gz"])
    assert "Doe" not in str(load_checkpoint(tmp_path / "last.pt"))


def test_a_handler_is_attached_through_a_component(tmp_path: Path) -> None:
    engine = Engine(lambda engine, batch: None)
    Attach(EpochCheckpoint(tmp_path / "last.pt", {}, "task")).attach(engine)
    engine.run([0], max_epochs=1)
    assert (tmp_path / "last.pt").is_file()


def test_the_same_content_gives_the_same_bytes_whatever_the_name(tmp_path: Path) -> None:
    for name in ("a.pt", "b.pt"):
        save_checkpoint({"model": {"weight": torch.arange(6.0)}, "epoch": 3}, tmp_path / name)
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()

from __future__ import annotations

import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.bundle.utils import DEFAULT_MLFLOW_SETTINGS
from monai.engines import SupervisedTrainer
from monai.handlers import from_engine

from tests.support.paths import ROOT
from tskd_monai.training import tracking
from tskd_monai.training.history import TrainingHistory, loss_of
from tskd_monai.training.tracking import TensorBoardCurves

BUNDLES = ROOT / "bundles"
TRAININGS = (
    "teacher_lora/configs/train.yaml",
    "diffusion_synthesis/configs/train.yaml",
    "distillation/configs/train.yaml",
    "distillation/configs/fine_tune.yaml",
    "segmentation/configs/train.json",
)
NAMES = ("train_loss", "learning_rate", "val_mean_dice")


def run(folder: Path, epochs: int, rows: list[dict[str, Any]], enabled: bool = True) -> list[dict[str, Any]]:
    """Resumes a training run with the given lines up to an epoch's end; returns all lines."""
    validator, engine = Engine(lambda engine, batch: None), Engine(lambda engine, batch: {"loss": torch.tensor(batch)})
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    history = TrainingHistory(folder / "history.jsonl", optimizer, validator)

    @engine.on(Events.STARTED)
    def resume() -> None:
        history.load_state_dict({"rows": rows})
        engine.state.epoch, engine.state.iteration = len(rows), len(rows)

    @engine.on(Events.EPOCH_COMPLETED(every=2))
    def validate() -> None:
        validator.state.metrics["val_mean_dice"] = engine.state.epoch / 10
        validator._fire_event(Events.COMPLETED)

    history.attach(engine)
    TensorBoardCurves(folder / "tensorboard", history, enabled).attach(engine)
    engine.run([2.5], max_epochs=epochs)
    return history.rows


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return what TensorBoard shows."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {name: [(p.step, p.value) for p in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_curves_are_those_of_the_history(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    rows = run(tmp_path, 4, [])
    found = curves(tmp_path)
    assert set(found) == set(NAMES)
    for name in NAMES:
        assert found[name] == [(row["epoch"], pytest.approx(row[name])) for row in rows if name in row]
    assert found["val_mean_dice"] == [(2, pytest.approx(0.2)), (4, pytest.approx(0.4))]


def test_a_resumed_training_has_no_gap_and_no_point_twice(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    rows = run(tmp_path, 3, [])
    run(tmp_path, 5, rows[:2])  # epoch 3 had been drawn, but not saved
    found = curves(tmp_path)
    assert [step for step, _ in found["train_loss"]] == [1, 2, 3, 4, 5]
    assert [step for step, _ in found["val_mean_dice"]] == [2, 4]


def test_nothing_is_written_or_needed_unless_requested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    run(tmp_path, 1, [], enabled=False)
    assert not (tmp_path / "tensorboard").exists()
    with pytest.raises(ImportError, match=r"package tensorboard for --tensorboard True.*tskd-monai\[tracking\]"):
        run(tmp_path, 1, [])


def test_only_the_first_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking.idist, "get_rank", lambda: 1)
    run(tmp_path, 1, [])
    assert not (tmp_path / "tensorboard").exists()


@pytest.mark.parametrize("config", TRAININGS)
def test_monais_tracking_finds_its_positions_in_the_config(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MONAI appends its handlers to two lists; without them it passes arguments that our engines do not have."""
    monkeypatch.chdir(tmp_path)
    parser = ConfigParser()
    parser.read_config(str(BUNDLES / config))
    handlers = len(parser["train#handlers"])
    before = deepcopy(parser.get("validate#evaluator"))
    ConfigWorkflow.patch_bundle_tracking(parser, DEFAULT_MLFLOW_SETTINGS)
    assert parser.get("train#handlers")[handlers]["_target_"] == "MLFlowHandler"
    assert parser.get("validate#evaluator") == before
    if before is not None:
        assert parser.get("validate#handlers")[-1]["_target_"] == "MLFlowHandler"
    assert "decollate" not in parser.get("train#trainer")  # see the next test
    assert not list(tmp_path.iterdir())  # the config, with all its paths, is not kept


@pytest.mark.parametrize("decollate", [True, False])
def test_the_loss_of_an_iteration(decollate: bool) -> None:
    """MONAI's tracking takes the loss from a decollated output only; ours takes both."""
    network = torch.nn.Conv2d(1, 1, 1)
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=[{"image": torch.ones(2, 1, 4, 4), "label": torch.zeros(2, 1, 4, 4)}],
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.0),
        loss_function=torch.nn.MSELoss(),
        decollate=decollate,
    )
    trainer.run()
    expected = float((network.weight + network.bias).detach().square())
    assert loss_of(trainer.state.output) == pytest.approx(expected)
    if decollate:
        assert float(from_engine(["loss"], first=True)(trainer.state.output)) == pytest.approx(expected)


def test_a_word_is_no_switch(tmp_path: Path) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    history = TrainingHistory(tmp_path / "history.jsonl", optimizer)
    with pytest.raises(TypeError, match="Expected --tensorboard True or False, found the word 'false'"):
        TensorBoardCurves(tmp_path, history, "false")  # type: ignore[arg-type]


def test_monais_own_handlers_are_left_out_unless_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tracking.is_off(False)
    pytest.importorskip("tensorboard")
    assert not tracking.is_off(True)
    monkeypatch.setattr(tracking.idist, "get_rank", lambda: 1)
    assert tracking.is_off(True)

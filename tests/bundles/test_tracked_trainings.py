"""Every training run is tracked by TensorBoard and MONAI's MLflow handlers, and reveals nothing about patients."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from tests.bundles.trainings import PATIENT, TRAININGS, Training, start, write_patients

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_patients(tmp_path_factory.mktemp("tracked"))


@pytest.fixture(params=TRAININGS, ids=[training.name for training in TRAININGS])
def training(request: pytest.FixtureRequest) -> Training:
    return request.param  # type: ignore[no-any-return]


def shown(folder: Path) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """Returns the steps of the curves and images that TensorBoard shows."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    curves, pictures = (accumulator.EventAccumulator(str(path)) for path in (folder, folder / "pictures"))
    curves.Reload()
    pictures.Reload()
    return (
        {name: [point.step for point in curves.Scalars(name)] for name in curves.Tags()["scalars"]},
        {name: [picture.step for picture in pictures.Images(name)] for name in pictures.Tags()["images"]},
    )


def test_tensorboard_shows_curves_and_images(study: Path, tmp_path: Path, training: Training) -> None:
    start(training, study, tmp_path, tensorboard=True)
    curves, pictures = shown(tmp_path / "tensorboard")
    assert curves["train_loss"] == [1, 2]
    if training.bundle == "diffusion_synthesis":
        assert pictures == {"samples": [2]}
    else:
        assert curves["val_mean_dice"] == [1, 2]
        assert set(pictures) == {"validation/slice_1"} and pictures["validation/slice_1"][-2:] == [1, 2]
    events = b"".join(path.read_bytes() for path in (tmp_path / "tensorboard").rglob("events*"))
    assert PATIENT.encode() not in events and str(study).encode() not in events


def test_mlflow_follows_without_a_word_of_the_patients(study: Path, tmp_path: Path, training: Training) -> None:
    pytest.importorskip("mlflow")
    start(training, study, tmp_path, tracking="mlflow")
    database = sqlite3.connect(tmp_path / "mlruns.db")
    runs = database.execute("select run_uuid, status from runs").fetchall()
    assert [status for _, status in runs] == ["FINISHED"]
    metrics = database.execute("select key, step, value from metrics order by step").fetchall()
    assert [step for key, step, _ in metrics if key == "train_loss"] == [1, 2, 3, 4]
    history = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    losses = [value for key, _, value in metrics if key == "train_loss"]
    assert sum(losses[2:]) / 2 == pytest.approx(history[1]["train_loss"])
    if training.bundle != "diffusion_synthesis":
        dice = [value for key, step, value in metrics if key == "val_mean_dice" and step == 2]
        assert dice == [pytest.approx(history[1]["val_mean_dice"])]
    assert PATIENT not in "\n".join(database.iterdump())
    assert not list(tmp_path.rglob("config_*.json"))

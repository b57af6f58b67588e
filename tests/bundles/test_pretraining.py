"""Each way to pre-train a student, on a tiny dataset: it learns, resumes exactly, fine-tuning starts from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine
from monai.bundle import run

from tests.support.paths import ROOT
from tskd_monai.data.datalist import load_datalist
from tskd_monai.data.planning.rules import plan_task
from tskd_monai.data.task import save_task
from tskd_monai.datasets.phantom.study import write_study
from tskd_monai.files.json_files import write_json
from tskd_monai.networks.pretrained import build_encoder
from tskd_monai.training.checkpoint import load_checkpoint
from tskd_monai.training.determinism import ReseedEachEpoch

pytestmark = pytest.mark.slow

BUNDLE = ROOT / "bundles" / "distillation"
METHODS = ("mae", "moco_v3", "task_agnostic")
CASES = [(method, student) for method in METHODS for student in ("compact_unet_small", "vit_tiny")]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with datalist.json and task.json of a planned dataset of 48 pixels."""
    folder = tmp_path_factory.mktemp("study")
    sections = {"training": 1, "validation": 1, "test": 1}
    write_study(folder / "phantom", seed=3, sections=sections, shape=(48, 48, 6), spacing=(7.2, 7.2, 20.0))
    datalist = load_datalist(folder / "phantom/datalist.json")
    write_json(folder / "datalist.json", datalist)
    save_task(plan_task(datalist, 48), folder / "task.json")
    return folder


def train(study: Path, configs: list[str], output_dir: Path, seed: int = 0, **overrides: Any) -> list[dict[str, Any]]:
    """Runs configs of the bundle in this process; returns the history."""
    torch.manual_seed(seed)
    run(
        config_file=[str(BUNDLE / "configs" / f"{name}.yaml") for name in configs],
        bundle_root=str(BUNDLE),
        logging_file=False,
        datalist=str(study / "datalist.json"),
        task=str(study / "task.json"),
        output_dir=str(output_dir),
        device="cpu",
        **{"batch_size": 4, "epoch_length": 2, "max_epochs": 2, **overrides},
    )
    return [json.loads(line) for line in (output_dir / "history.jsonl").read_text().splitlines()]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_checkpoint(folder / "models" / "model.pt"))


def stop_at_the_second_epoch(self: ReseedEachEpoch, engine: Engine, reseed: Any = ReseedEachEpoch.__call__) -> None:
    if engine.state.epoch == 2:
        raise KeyboardInterrupt
    reseed(self, engine)


@pytest.mark.parametrize(("method", "student"), CASES)
def test_a_stopped_training_ends_like_one_that_never_was(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, student: str
) -> None:
    train(study, ["train", method], tmp_path / "whole", student=student)
    with monkeypatch.context() as patch:
        patch.setattr(ReseedEachEpoch, "__call__", stop_at_the_second_epoch)
        with pytest.raises((KeyboardInterrupt, RuntimeError)):
            train(study, ["train", method], tmp_path / "stopped", student=student)
    assert not (tmp_path / "stopped/models").exists()
    train(study, ["train", method], tmp_path / "stopped", student=student, seed=1)  # other weights at first
    whole, resumed = (load_checkpoint(tmp_path / name / "last.pt") for name in ("whole", "stopped"))
    assert whole["network"].keys() == resumed["network"].keys()
    assert all(torch.equal(value, resumed["network"][name]) for name, value in whole["network"].items())
    last = weights(tmp_path / "stopped")
    assert all(torch.equal(value, last[name]) for name, value in weights(tmp_path / "whole").items())
    within = "student.network" if method == "task_agnostic" else "network"
    assert all(torch.equal(value, whole["network"][f"{within}.{name}"]) for name, value in last.items())
    assert json.loads((tmp_path / "whole/record.json").read_text())["stage"] == method


@pytest.mark.parametrize(("method", "student"), CASES)
def test_it_learns_and_fine_tuning_starts_from_it(study: Path, tmp_path: Path, method: str, student: str) -> None:
    settings = {"student": student, "epoch_length": 6, "max_epochs": 4, "learning_rate": 1e-3}
    history = train(study, ["train", method], tmp_path / method, **settings)
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    train(
        study,
        ["fine_tune"],
        tmp_path / "student",
        seed=1,
        student=student,
        initial_student=str(tmp_path / method),
        learning_rate=0.0,
        epoch_length=1,
        max_epochs=1,
    )
    start, end = weights(tmp_path / method), weights(tmp_path / "student")
    assert all(torch.equal(value, end[name]) for name, value in start.items())


@pytest.mark.usefixtures("bfloat16_anywhere")
@pytest.mark.parametrize("method", METHODS)
def test_it_runs_in_bfloat16(study: Path, tmp_path: Path, method: str) -> None:
    inferer = {"_target_": "tskd_monai.training.precision.PrecisionInferer", "precision": "bfloat16"}
    history = train(study, ["train", method], tmp_path, student="vit_tiny", max_epochs=1, **{"train#inferer": inferer})
    assert len(history) == 1


def test_fine_tuning_starts_a_vit_from_imagenet(study: Path, tmp_path: Path, vit_tiny_weights: Path) -> None:
    history = train(
        study,
        ["fine_tune"],
        tmp_path,
        student="vit_tiny",
        encoder_weights=str(vit_tiny_weights),
        learning_rate=0.0,
        epoch_length=1,
        max_epochs=1,
    )
    published = build_encoder("vit_tiny_patch16", vit_tiny_weights, 48).state_dict()
    found = weights(tmp_path)
    assert history[-1]["train_loss"] > 0
    assert all(torch.equal(value, found[f"encoder.{name}"]) for name, value in published.items())

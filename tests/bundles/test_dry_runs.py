"""A dry run of every training config ends with a table and OK, or with an error, and writes nothing."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest

from tests.bundles.trainings import TRAININGS, Training, start, write_patients
from tskd_monai.files.json_files import read_json, write_json

pytestmark = pytest.mark.slow

MASKED_AUTOENCODER = Training("distillation", "train.yaml", "dry_run.yaml", (("teacher_dir", "teacher"),))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_patients(tmp_path_factory.mktemp("dry_runs"))


@pytest.fixture(params=TRAININGS, ids=[training.name for training in TRAININGS])
def training(request: pytest.FixtureRequest) -> Training:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="tskd_monai")


def table(caplog: pytest.LogCaptureFixture) -> str:
    """Returns the table in the log, without its line breaks."""
    return next(" ".join(message.split()) for message in caplog.messages if message.startswith("Dry run"))


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def test_a_good_study_is_ok_and_nothing_is_written(
    study: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, training: Training
) -> None:
    before = files(study)
    start(training, study, tmp_path / "output", training.dry_run)
    found = table(caplog)
    assert "training ok 2 of 2 cases readable, 12 slices" in found
    assert ("liver ok" in found) is (training.bundle != "diffusion_synthesis")  # which needs no labels
    assert "s a step, 4 steps in" in found and found.split("OK: ")[-1].startswith("training can start.")
    assert files(study) == before and not (tmp_path / "output").exists()


def test_a_damaged_case_is_named_and_ends_the_run(
    study: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, training: Training
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(study, damaged)
    datalist = read_json(damaged / "datalist.json")
    (damaged / "half.nii.gz").write_bytes(Path(datalist["training"][0]["image"]).read_bytes()[:500])
    datalist["training"][0]["image"] = str(damaged / "half.nii.gz")
    write_json(damaged / "datalist.json", datalist)
    with pytest.raises(SystemExit, match="Not ready: 1 of [0-9]+ findings say STOP"):
        start(training, damaged, tmp_path / "output", training.dry_run)
    assert "training STOP 1 of 2 cases readable, 6 slices" in table(caplog)
    assert datalist["training"][0]["case"] in table(caplog)


def test_a_dry_run_of_distillation_counts_cached_targets_and_synthetic_images(
    study: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    start(MASKED_AUTOENCODER, study, tmp_path, "mae.yaml", "dry_run.yaml")  # no teacher, no cached targets
    without = table(caplog)
    caplog.clear()
    start(MASKED_AUTOENCODER, study, tmp_path, "dry_run.yaml")
    assert "OK: training can start." in without and "OK: training can start." in table(caplog)


def test_missing_initial_weights_are_named(study: Path, tmp_path: Path) -> None:
    shutil.copytree(study, tmp_path / "copy")
    (tmp_path / "copy" / "student" / "models" / "model.pt").unlink()
    with pytest.raises(RuntimeError) as raised:
        start(TRAININGS[-1], tmp_path / "copy", tmp_path / "output", "dry_run.json")
    cause: BaseException = raised.value
    while cause.__cause__ is not None:
        cause = cause.__cause__
    assert "Expected the trained weights at" in str(cause)

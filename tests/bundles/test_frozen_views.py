"""A teacher is trained on stored views by its config, and its dry run foretells them."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tests.bundles.trainings import TRAININGS, start, study_task, write_patients
from tskd_monai.files.json_files import read_json
from tskd_monai.networks.teacher_folder import load_teacher

pytestmark = pytest.mark.slow

TEACHER = TRAININGS[0]
OPTIONS = {"lora_depth": 2, "frozen_views": 3}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_patients(tmp_path_factory.mktemp("frozen_views"))


def test_a_teacher_is_trained_on_views_that_are_removed_at_the_end(study: Path, tmp_path: Path) -> None:
    output_dir = tmp_path / "teacher"
    start(TEACHER, study, output_dir, **OPTIONS)
    settings = read_json(output_dir / "record.json")["settings"]
    assert {name: settings[name] for name in OPTIONS} == OPTIONS
    assert load_teacher(output_dir, task_hash=study_task(study).hash).spec.lora_depth == 2
    assert not list(output_dir.rglob("frozen_views"))


def test_the_dry_run_foretells_the_views(study: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="tskd_monai")
    start(TEACHER, study, tmp_path / "teacher", TEACHER.dry_run, **OPTIONS)
    table = next(" ".join(message.split()) for message in caplog.messages if message.startswith("Dry run"))
    assert "views ok 0.00 GB on disk until the teacher is written, computed in 0." in table
    assert not (tmp_path / "teacher").exists()


def test_a_teacher_with_lora_in_every_layer_has_no_frozen_beginning(study: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as raised:
        start(TEACHER, study, tmp_path / "teacher", frozen_views=3)
    cause: BaseException = raised.value
    while cause.__cause__ is not None:
        cause = cause.__cause__
    assert "Expected frozen layers at the beginning of the encoder for --frozen_views" in str(cause)

"""A student bundle written by version 0.1, whose configs name its components, still segments, scores and trains."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigParser, run

from tests.support.paths import BUNDLES
from tskd_monai.data.task import load_task
from tskd_monai.datasets.phantom.study import write_study
from tskd_monai.files.json_files import read_json
from tskd_monai.former_names import FORMER, former_components, former_module
from tskd_monai.inference.export import load_student

CONFIGS = Path(__file__).parent / "student_0_1" / "configs"


def targets(config: Any) -> Iterator[str]:
    """Yield every `_target_` of a config."""
    if isinstance(config, dict):
        if "_target_" in config:
            yield config["_target_"]
        config = list(config.values())
    if isinstance(config, list):
        for part in config:
            yield from targets(part)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped student with the configs that 0.1 wrote."""
    folder = tmp_path_factory.mktemp("former") / "student"
    shutil.copytree(BUNDLES / "segmentation", folder, ignore=shutil.ignore_patterns("docs"))
    for path in CONFIGS.iterdir():
        shutil.copyfile(path, folder / "configs" / path.name)
    return folder


@pytest.mark.parametrize("path", sorted(CONFIGS.iterdir()), ids=lambda path: path.name)
def test_every_component_is_found(path: Path) -> None:
    for name in targets(read_json(path)):
        if name.startswith("tskd_monai."):
            parser = ConfigParser({"part": {"_target_": name, "_mode_": "callable"}})
            assert callable(parser.get_parsed_content("part")), name


@pytest.mark.slow
def test_it_segments_and_scores(student: Path, tmp_path: Path) -> None:
    write_study(tmp_path, seed=3, sections={"training": 1, "validation": 1, "test": 1}, shape=(48, 48, 8),
                spacing=(7.2, 7.2, 20.0))  # fmt: skip
    configs = [str(student / "configs" / f"{name}.json") for name in ("inference", "evaluate")]
    run(config_file=configs, bundle_root=str(student), datalist=str(tmp_path / "datalist.json"),
        output_dir=str(tmp_path / "out"))  # fmt: skip
    assert len(list((tmp_path / "out").glob("*_seg.nii.gz"))) == 1
    assert read_json(tmp_path / "out" / "metrics.json")


def test_it_trains_and_a_dry_run_of_it_is_ok(student: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="tskd_monai")
    write_study(tmp_path, seed=3, sections={"training": 1, "validation": 1}, shape=(48, 48, 8),
                spacing=(7.2, 7.2, 20.0))  # fmt: skip
    output = tmp_path / "out"
    options = {"bundle_root": str(student), "datalist": str(tmp_path / "datalist.json"), "output_dir": str(output),
               "epoch_length": 1, "max_epochs": 1, "batch_size": 2, "tensorboard": True,
               "logging_file": False}  # fmt: skip
    train, dry_run = (str(student / "configs" / f"{name}.json") for name in ("train", "dry_run"))
    run(config_file=[train, dry_run], **options)
    assert "OK: training can start." in caplog.messages[-1] and not output.exists()
    run(config_file=train, **options)
    assert (output / "model.pt").is_file()
    assert len((output / "history.jsonl").read_text().splitlines()) == 1


def test_its_network_and_task_are_found_for_the_export(student: Path) -> None:
    network, task = load_student(student)
    assert not network.training and task == load_task(student / "configs" / "task.json")


def test_the_table_holds_no_name_that_is_in_use() -> None:
    for former in FORMER:
        package, name = former.rsplit(".", 1)
        assert not (BUNDLES.parent / package.replace(".", "/") / f"{name}.py").exists()
    with pytest.raises(AttributeError, match="no attribute 'studio'"):
        former_module("tskd_monai.inference", "studio")
    with pytest.raises(AttributeError, match="no attribute 'Resumes'"):
        former_components("tskd_monai.training.checkpoint")("Resumes")

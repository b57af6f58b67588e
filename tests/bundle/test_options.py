from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from fire.parser import DefaultParseValue
from monai.bundle import ConfigWorkflow

from tests.support.paths import ROOT
from tskd_monai.bundle import options as bundle
from tskd_monai.bundle.options import check_bundle_root, dataset_dir, default_device, plain_option
from tskd_monai.files.folder_lock import LOCK_FILE, FolderInUseError
from tskd_monai.inference.failures import root_cause

BUNDLES = ROOT / "bundles"


@pytest.mark.parametrize("name", ["teacher_lora", "diffusion_synthesis", "distillation", "segmentation"])
def test_each_bundle_is_one(name: str) -> None:
    check_bundle_root(BUNDLES / name)


def said(error: BaseException, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the lines that Python prints when an error ends a command."""
    sys.excepthook(type(error), error, error.__traceback__)
    return capsys.readouterr().err.strip().splitlines()


def test_a_failed_command_ends_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    for _ in range(2):  # two configs in one process
        bundle.end_with_the_reason()
    wrapped = RuntimeError("Failed to instantiate component")
    wrapped.__cause__ = ValueError("Expected a liver, found none.")
    lines = said(wrapped, capsys)
    assert lines[-1] == "ValueError: Expected a liver, found none." and lines[-2].startswith("RuntimeError: Failed")
    wrapped.__cause__ = KeyError("liver")
    assert said(wrapped, capsys)[-1].startswith("RuntimeError: Failed")
    assert said(ValueError("Expected one."), capsys) == ["ValueError: Expected one."]


@pytest.mark.parametrize(
    ("bundle", "config", "option"),
    [
        ("teacher_lora", "train.yaml", "output_dir"),
        ("teacher_lora", "inference.yaml", "teacher_dir"),
        ("distillation", "train.yaml", "transfer_set"),
        ("distillation", "fine_tune.yaml", "initial_student"),
        ("distillation", "targets.yaml", "label_maps"),
        ("diffusion_synthesis", "gate.yaml", "teacher_dir"),
        ("diffusion_synthesis", "inference.yaml", "diffusion_dir"),
        ("segmentation", "inference.json", "output_dir"),
    ],
)
def test_name_that_the_command_line_took_for_a_number_is_refused_at_the_start(
    bundle: str, config: str, option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    options: dict[str, Any] = {"output_dir": str(tmp_path / "out"), option: 20240115}
    path = BUNDLES / bundle / "configs" / config
    workflow = ConfigWorkflow(
        str(path), workflow_type="infer", logging_file=False, bundle_root=str(BUNDLES / bundle), **options
    )
    with pytest.raises(RuntimeError) as raised:  # the runner wraps what a config raises
        [step() for step in (workflow.initialize, workflow.run)]
    told = rf"Expected a path for --{option}, found 20240115, as which the command line reads it; write \./ in front"
    assert re.match(told, str(root_cause(raised.value)))
    assert not (tmp_path / "out").exists()


def test_another_folder_is_no_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(
        FileNotFoundError, match=r"bundle at elsewhere/, found no configs/metadata\.json.*--bundle_root"
    ):
        check_bundle_root(".")


@pytest.mark.parametrize(("available", "expected"), [(True, "cuda:0"), (False, "cpu")])
def test_the_first_gpu_is_taken_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, available: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    assert default_device() == torch.device(expected)


def test_paths_are_relative_to_the_datalist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert dataset_dir("study/datalist.json") == str((tmp_path / "study").resolve())
    assert Path(dataset_dir(None)).is_absolute()
    assert dataset_dir(["a.nii.gz"]) == str(Path.cwd())
    with pytest.raises(ValueError, match=r"Expected a path for --datalist, found 7, .*write \./ in front"):
        dataset_dir(7)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "written"), [("cuda:0", "cuda:0"), (3, "3"), (True, "True"), (None, "None"), ([1, "a"], "[1, 'a']")]
)
def test_plain_option_is_read_back_by_the_runner_as_it_was(value: object, written: str) -> None:
    assert plain_option("device", value) == written
    assert DefaultParseValue(written) == value


def test_none_is_written_as_the_expression_that_monai_does_not_ignore() -> None:
    assert plain_option("cache_dir", "$None") == "$None"
    with pytest.raises(ValueError, match="which MONAI would evaluate"):
        plain_option("cache_dir", ["$None"])


@pytest.mark.parametrize("name", ["$x.nii", "@id", "%a.json#b", "20240115", "2024_01", "None", "1e5", "[1]", "(a)"])
def test_path_is_a_name_whatever_it_looks_like(name: str) -> None:
    written = plain_option("image", Path(name))
    assert DefaultParseValue(written) == written == f"./{name}"
    assert plain_option("image", Path("/data") / name) == f"/data/{name}"


@pytest.mark.parametrize(
    "value",
    ["$import os", "@id", "%a.json#b", "r'$x'", "['$x']", ["$x"], {"a": {"_target_": "os.system"}}],
)
def test_option_that_monai_would_evaluate_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="Expected a plain value for --image, found .*, which MONAI would evaluate"):
        plain_option("image", value)


def test_an_output_folder_in_use_ends_the_run_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Path) -> None:
        raise FolderInUseError(
            "Expected the output folder student to be free, found process 7 on host a writing to it."
        )

    monkeypatch.setattr(bundle, "hold_folder", refuse)
    with pytest.raises(SystemExit, match="^Expected the output folder student to be free, found process 7"):
        bundle.hold_output_dir(tmp_path)


def test_only_the_first_process_holds_the_output_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = bundle.hold_output_dir(tmp_path)
    assert (tmp_path / LOCK_FILE).is_file()
    bundle.release_output_dir(lock)
    assert not (tmp_path / LOCK_FILE).exists()
    monkeypatch.setattr(bundle.idist, "get_rank", lambda: 1)
    bundle.release_output_dir(bundle.hold_output_dir(tmp_path / "of_the_first"))
    assert not (tmp_path / "of_the_first").exists()

"""The gates' verdict decides whether the student's stages get the transfer set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.data.test_gates_file import gates_json
from tskd_monai.bundle.stage_store import Stage
from tskd_monai.commands.train.command import parse_arguments
from tskd_monai.commands.train.options import load_preset
from tskd_monai.commands.train.pipeline import _wants_synthesis
from tskd_monai.commands.train.stages import PipelineOptions, PlannedDataset, pipeline_stages


def stages(folder: Path, task: Any, verdict: dict[str, Any] | None, **options: Any) -> dict[str, Stage]:
    """Returns the stages by name of a pipeline whose gates have run with a verdict; None: those of version 1."""
    content = {**gates_json(), "format_version": 2 if verdict else 1, "verdict": verdict}
    (folder / "gates").mkdir()
    (folder / "gates" / "gates.json").write_text(json.dumps(content))
    digests = {f"{section} {kind}": [] for section in ("training", "validation", "test", "unlabeled")
               for kind in ("images", "labels")}  # fmt: skip
    dataset = PlannedDataset(Path("datalist.json"), Path("task.json"), task, digests, slices=80)
    chosen = PipelineOptions(
        load_preset("demo"), "sam_demo", "shipped", None, "compact_unet_small", 0, None, 40, **options
    )
    return {stage.name: stage for stage in pipeline_stages(folder, dataset, chosen)}


def verdict(**changes: Any) -> dict[str, Any]:
    return {"passed": False, "reason": "The images are blurred.", "use_failed": False, **changes}


@pytest.mark.parametrize("found", [None, verdict(passed=True), verdict(use_failed=True)])
def test_a_set_that_passed_is_given_to_every_student(tmp_path: Path, make_task: Any, found: dict[str, Any]) -> None:
    made = stages(tmp_path, make_task(), found)
    for name in ("distilled", "self_distilled"):
        assert made[name].paths()["transfer_set"] == tmp_path / "transfer_set"


def test_a_failed_set_is_left_out_with_one_warning(
    tmp_path: Path, make_task: Any, caplog: pytest.LogCaptureFixture
) -> None:
    made = stages(tmp_path, make_task(), verdict())
    for name in ("distilled", "self_distilled"):
        assert "transfer_set" not in made[name].paths()
    (message,) = caplog.messages
    assert message.strip() == (
        "The transfer set failed its gates and is left out of distillation. The images are blurred."
    )


def test_force_reaches_the_gates_and_runs_synthesis(tmp_path: Path, make_task: Any) -> None:
    assert "use_failed" not in stages(tmp_path, make_task(), verdict())["gates"].settings
    (tmp_path / "forced").mkdir()
    forced = stages(tmp_path / "forced", make_task(), verdict(use_failed=True), use_failed=True)
    assert forced["gates"].settings["use_failed"] is True
    preset = {"synthesis": False}
    for wanted, expected in (("force", True), ("on", True), ("off", False), ("auto", False)):
        args = parse_arguments(["data", "--synthesis", wanted])
        assert _wants_synthesis(args.synthesis, preset, tmp_path) is expected


def test_neighbours_make_other_students_of_the_same_teacher(tmp_path: Path, make_task: Any) -> None:
    for name in ("flat", "stacked"):
        (tmp_path / name).mkdir()
    flat = stages(tmp_path / "flat", make_task(), verdict(passed=True))
    stacked = stages(tmp_path / "stacked", make_task(neighbours=1), verdict(passed=True))
    other = {name for name, stage in flat.items() if stage.inputs != stacked[name].inputs}
    assert other == {"distilled", "student", "scratch", "self_distilled", "self_trained"}
    assert "neighbours" not in flat["student"].inputs["task.json"]  # as of a run before there were any

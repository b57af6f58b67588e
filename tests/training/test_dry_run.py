from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from tskd_monai.data.task import Intensity, Label, Task
from tskd_monai.files.json_files import write_json
from tskd_monai.training import dry_run as module
from tskd_monai.training.case_survey import CaseSurvey, Trial
from tskd_monai.training.dry_run import (
    Finding,
    Verdict,
    class_findings,
    disk_finding,
    findings_table,
    memory_finding,
    report_findings,
    time_finding,
)

TASK = Task(
    name="tiny",
    labels=(Label(0, "background"), Label(1, "liver"), Label(4, "spleen")),
    channels=1,
    image_size=(16, 16),
    pixdim=(1.5, 1.5),
    axcodes="PLS",
    intensity=Intensity("percentile", 1.0, 99.0),
)
TRIAL = Trial(seconds=0.5, process_bytes=600_000_000, gpu_bytes=None, trained_bytes=4_000_000)
LABELS = {"0": "background", "1": "liver", "4": "spleen"}


def survey(cases: tuple[int, int] = (5, 4), unreadable: tuple[str, ...] = ()) -> CaseSurvey:
    """Returns five cases of which the given numbers show liver and spleen."""
    counts = np.array([5, *cases])
    return CaseSurvey(5, 40, 1_000_000, 100 * counts, 8 * counts, counts, unreadable)


def run(folder: Path, labels: dict[str, str] = LABELS, **changes: Any) -> None:
    """Surveys a dataset in which everything is valid except what is changed."""
    write_json(folder / "datalist.json", {"labels": labels, "training": []})
    surveys = changes.pop("surveys", {"training": survey(), "validation": survey()})
    report_findings(
        **{
            "task": TASK,
            "datalist": folder / "datalist.json",
            "surveys": surveys,
            "trial": TRIAL,
            "steps": 600,
            "output_dir": folder / "new" / "teacher",
            "device": "cpu",
            **changes,
        }
    )


@pytest.fixture(autouse=True)
def info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="tskd_monai")


def test_a_study_in_which_all_is_well(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(tmp_path)
    table = caplog.messages[-1]
    for text in (
        "training    ok    5 of 5 cases readable, 40 slices",
        "liver       ok    training 35.7 %, 40 slices, 5 of 5 cases; validation",
        "tiny: 2 classes, 16 x 16 px, 1.5 mm, percentile",
        "0.60 GB needed (0.00 GB of it for images)",
        "0.50 s a step, 600 steps in 5 min",
    ):
        assert text in table
    assert table.endswith("OK: training can start.")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"surveys": {"training": survey(unreadable=("case a: found half a file",))}}, "case a: found half a file"),
        ({"surveys": {"training": survey((0, 4))}}, "It cannot be learned; label a case that has it"),
        (
            {"labels": {"0": "background", "1": "liver", "2": "spleen"}},
            "plan it again (tskd plan)",
        ),
        ({"trial": replace(TRIAL, process_bytes=10**15)}, "a machine with more memory"),
        ({"kept_bytes": 10**16}, "Free some space or choose another --output_dir"),
    ],
)
def test_an_obstacle_ends_with_an_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, changes: dict[str, Any], line: str
) -> None:
    with pytest.raises(SystemExit, match="Not ready: [12] of [0-9]+ findings say STOP"):
        run(tmp_path, **changes)
    table = " ".join(caplog.messages[-1].split())
    assert " STOP " in table and line in table


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    finding = disk_finding(tmp_path / "file" / "teacher", 1)
    assert finding.verdict is Verdict.STOP and finding.found == "file/ cannot be written"


@pytest.mark.parametrize(
    ("training", "validation", "verdict", "advice"),
    [
        ((5, 1), (5, 5), Verdict.LOOK, "Few training cases show it"),
        ((5, 4), (5, 0), Verdict.LOOK, "No validation case shows it"),
        ((5, 4), (5, 5), Verdict.OK, ""),
    ],
)
def test_classes_that_few_cases_show_are_worth_a_look(
    training: tuple[int, int], validation: tuple[int, int], verdict: Verdict, advice: str
) -> None:
    findings = class_findings(TASK, {"training": survey(training), "validation": survey(validation)})
    assert [finding.subject for finding in findings] == ["liver", "spleen"]
    assert findings[0].verdict is Verdict.OK
    assert findings[1].verdict is verdict and findings[1].advice.startswith(advice)


def test_a_class_that_planning_missed_too_may_be_absent() -> None:
    planned = replace(TASK, class_frequencies=(0.9, 0.1, 0.0))
    assert class_findings(planned, {"training": survey((5, 0))})[1].verdict is Verdict.LOOK
    assert class_findings(TASK, {"training": survey((5, 0))})[1].verdict is Verdict.STOP


def test_images_without_labels_have_no_lines_of_classes() -> None:
    assert class_findings(TASK, {"training": replace(survey(), class_voxels=None)}) == []


def test_memory_that_is_only_just_enough_is_worth_a_look(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = type("Memory", (), {"available": 1_000_000_000 - psutil.Process().memory_info().rss})
    monkeypatch.setattr(module.psutil, "virtual_memory", memory)
    assert memory_finding(TRIAL, 0, "cpu").verdict is Verdict.OK
    assert memory_finding(TRIAL, 300_000_000, "cpu").verdict is Verdict.LOOK
    assert memory_finding(TRIAL, 600_000_000, "cpu").verdict is Verdict.STOP


def test_hours_are_written_as_hours() -> None:
    assert "20000 steps in 2.8 h" in time_finding(TRIAL, 20000).found


def test_long_lines_continue_below_their_column() -> None:
    lines = findings_table([Finding("task", "word " * 40), Finding("a longer subject", "short")]).splitlines()
    assert len(lines) == 3
    assert lines[1].startswith(" " * len("a longer subject  ok    ")) and lines[2].startswith("a longer subject  ok")

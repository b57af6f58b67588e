"""Dry run: whether the cases, the memory and the disk suffice for a training run."""

from __future__ import annotations

import logging
import os
import shutil
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch
from monai.engines import PrepareBatch
from monai.inferers.inferer import Inferer
from torch import nn

from tskd_monai.data.drawn_structures import IGNORE
from tskd_monai.data.task import Task
from tskd_monai.files.json_files import read_json
from tskd_monai.former_names import former_components
from tskd_monai.training.case_survey import CaseSurvey, Preprocessing, Trial, survey_cases, trial_step

if TYPE_CHECKING:
    from tskd_monai.training.frozen_views import ViewCost, ViewTrial

logger = logging.getLogger(__name__)

WIDTH = 100  # characters of a finding; longer ones are wrapped
GB = 1e9
# In units of the trained weights: the last checkpoint (weights, two moments of AdamW, a moving average), a second one
# while it is replaced, the best weights and the result.
WRITTEN_COPIES = 10
TIGHT = 0.8  # fraction of the free memory or disk above which a finding is worth a look
SHOWN = 3  # unreadable cases that a finding lists
ENOUGH_CASES = 2  # cases that contain a class
Section = tuple[Sequence[Mapping[str, Any]], Preprocessing]


class Verdict(Enum):
    """Whether training can start."""

    OK = "ok"
    LOOK = "look"
    STOP = "STOP"


@dataclass(frozen=True)
class Finding:
    """One row of the table.

    Attributes:
        subject: what was checked.
        found: result of the check, with units.
        verdict: whether training can start.
        advice: what to do; "" where nothing is needed.
    """

    subject: str
    found: str
    verdict: Verdict = Verdict.OK
    advice: str = ""


def findings_table(findings: Sequence[Finding]) -> str:
    """Returns the findings as lines of text: subject, verdict, result and advice."""
    width = max(len(finding.subject) for finding in findings)
    lines = []
    for finding in findings:
        text = f"{finding.found}. {finding.advice}".rstrip(" ") if finding.advice else finding.found
        first, *rest = textwrap.wrap(text, WIDTH)
        lines.append(f"{finding.subject:{width}}  {finding.verdict.value:4}  {first}")
        lines += [" " * (width + 8) + line for line in rest]
    return "\n".join(lines)


def conclusion(findings: Sequence[Finding]) -> str:
    """Returns the last line of the table: OK, or the number of findings that prevent the run."""
    stops = sum(finding.verdict is Verdict.STOP for finding in findings)
    looks = sum(finding.verdict is Verdict.LOOK for finding in findings)
    if stops:
        return f"Not ready: {stops} of {len(findings)} findings say STOP."
    return "OK: training can start." + (f" Worth a look: {looks} of {len(findings)} findings." if looks else "")


def training_dry_run(
    task: Task,
    datalist: str | Path,
    sections: Mapping[str, Section],
    batch: Mapping[str, Any],
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_function: Callable[..., torch.Tensor],
    inferer: Inferer,
    steps: int,
    output_dir: str | Path,
    device: torch.device | str,
    prepare_batch: PrepareBatch | None = None,
    surveys: Mapping[str, CaseSurvey] | None = None,
    kept_bytes: int = 0,
    view_trial: ViewTrial | None = None,
) -> None:
    """Reads every case, trains for a few steps on noise, and logs a table that ends with OK or with advice.

    Args:
        task: task of the run.
        datalist: datalist whose declared labels are compared with the task's.
        sections: entries and preprocessing of each section (`training`, `validation`), by name.
        batch: noise in the form of a training batch.
        network: network of the run, on `device`; its weights are changed.
        optimizer: optimiser of the run.
        loss_function: loss of the run.
        inferer: inferer of the run.
        steps: batches of the whole run.
        output_dir: output folder of the run; nothing is written there.
        device: device of the run.
        prepare_batch: splits a batch into inputs and target; None: MONAI's default.
        surveys: surveys of sections that have been read already, by name.
        kept_bytes: size of the cached targets of a teacher, in memory and on disk.
        view_trial: measures the cost of the views that a teacher's run stores; None: it stores none.

    Raises:
        SystemExit: when a finding prevents the run, so that a calling script stops too.
        ValueError: when a teacher cannot store views.
    """
    cost = None
    if view_trial is not None:
        batch, cost = view_trial(batch)
    read = {name: survey_cases(entries, preprocessing, task) for name, (entries, preprocessing) in sections.items()}
    trial = trial_step(batch, network, optimizer, loss_function, inferer, device, prepare_batch)
    surveys = {**(surveys or {}), **read}
    views = None if cost is None else cost.times(surveys["training"].slices)
    report_findings(task, datalist, surveys, trial, steps, output_dir, device, kept_bytes, views)


def report_findings(
    task: Task,
    datalist: str | Path,
    surveys: Mapping[str, CaseSurvey],
    trial: Trial,
    steps: int,
    output_dir: str | Path,
    device: torch.device | str,
    kept_bytes: int = 0,
    views: ViewCost | None = None,
) -> None:
    """Logs the table of a dry run.

    Args:
        task: task of the run.
        datalist: datalist whose declared labels are compared with the task's.
        surveys: surveys by section name, `training` among them.
        trial: measurements of a training step.
        steps: batches of the whole run.
        output_dir: output folder of the run.
        device: device of the run.
        kept_bytes: size of the cached targets of a teacher, in memory and on disk.
        views: cost of all stored views; None: there are none.

    Raises:
        SystemExit: when a finding prevents the run.
    """
    findings = [
        *(section_finding(name, survey) for name, survey in surveys.items()),
        task_finding(task, datalist),
        *class_findings(task, surveys),
        memory_finding(trial, kept_bytes + sum(survey.held_bytes for survey in surveys.values()), device),
        disk_finding(output_dir, WRITTEN_COPIES * trial.trained_bytes + kept_bytes + (views.bytes if views else 0)),
        time_finding(trial, steps),
        *([] if views is None else [views_finding(views)]),
    ]
    logger.info("Dry run, nothing was trained or written.\n%s\n%s", findings_table(findings), conclusion(findings))
    if any(finding.verdict is Verdict.STOP for finding in findings):
        raise SystemExit(conclusion(findings))


def section_finding(name: str, survey: CaseSurvey) -> Finding:
    """Returns the number of readable cases of a section, and which cannot be read."""
    readable = survey.cases - len(survey.unreadable)
    found = f"{readable} of {survey.cases} cases readable, {survey.slices} slices"
    if not survey.unreadable:
        return Finding(name, found, Verdict.OK if survey.slices else Verdict.STOP, "" if survey.slices else "Add cases")
    named = "; ".join(survey.unreadable[:SHOWN])
    others = len(survey.unreadable) - SHOWN
    return Finding(name, found, Verdict.STOP, named + (f"; and {others} more" if others > 0 else ""))


def task_finding(task: Task, datalist: str | Path) -> Finding:
    """Returns whether the labels of the task are those that the datalist declares."""
    size = f"{task.image_size[0]} x {task.image_size[1]} px"
    found = f"{task.name}: {task.num_classes - 1} classes, {size}, {task.pixdim[0]:.3g} mm, {task.intensity.mode}"
    declared = read_json(datalist).get("labels")
    planned = {str(label.value): label.name for label in task.labels}
    planned |= {} if task.ignore is None else {str(task.ignore): IGNORE}
    if isinstance(declared, Mapping) and {key: str(name) for key, name in declared.items()} != planned:
        advice = f"The datalist declares {dict(declared)}, the task {planned}: plan it again (tskd plan)"
        return Finding("task", found, Verdict.STOP, advice)
    return Finding("task", found)


def class_findings(task: Task, surveys: Mapping[str, CaseSurvey]) -> list[Finding]:
    """Returns one finding for each foreground class: its fraction of the voxels, and the slices and cases with it."""
    labelled = {name: survey for name, survey in surveys.items() if survey.class_voxels is not None}
    return [_class_finding(task, index, labelled) for index in range(1, task.num_classes)] if labelled else []


def _class_finding(task: Task, index: int, surveys: Mapping[str, CaseSurvey]) -> Finding:
    parts, verdict, advice = [], Verdict.OK, ""
    for name, survey in surveys.items():
        cases, voxels = int(survey.class_cases[index]), survey.class_voxels
        percent = 100 * voxels[index] / max(int(voxels.sum()), 1) if voxels is not None else 0.0
        parts.append(f"{name} {percent:.3g} %, {survey.class_slices[index]} slices, {cases} of {survey.cases} cases")
        if name == "training" and not cases:
            planned_absent = bool(task.class_frequencies) and not task.class_frequencies[index]
            verdict = Verdict.LOOK if planned_absent else Verdict.STOP
            advice = "It cannot be learned; label a case that has it, or take it out of the task"
        elif cases < ENOUGH_CASES and verdict is Verdict.OK and survey.cases >= ENOUGH_CASES:
            verdict = Verdict.LOOK
            advice = f"Few {name} cases show it" if cases else f"No {name} case shows it, so its Dice is not measured"
    return Finding(task.labels[index].name, "; ".join(parts), verdict, advice)


def memory_finding(trial: Trial, held_bytes: int, device: torch.device | str) -> Finding:
    """Returns whether the free memory of the machine, and of a GPU, suffices."""
    needed = trial.process_bytes + held_bytes
    free = psutil.virtual_memory().available + psutil.Process().memory_info().rss
    found = f"{needed / GB:.2f} GB needed ({held_bytes / GB:.2f} GB of it for images), {free / GB:.1f} GB free"
    verdict, advice = _judge(needed, free), "Use fewer or smaller images, or a machine with more memory"
    if trial.gpu_bytes is not None:
        gpu_free = torch.cuda.mem_get_info(torch.device(device))[0] + torch.cuda.memory_reserved(torch.device(device))
        found += f"; GPU {trial.gpu_bytes / GB:.2f} GB needed, {gpu_free / GB:.1f} GB free"
        if _judge(trial.gpu_bytes, gpu_free) is not Verdict.OK:
            verdict, advice = _judge(trial.gpu_bytes, gpu_free), "Lower --batch_size"
    return Finding("memory", found, verdict, "" if verdict is Verdict.OK else advice)


def disk_finding(output_dir: str | Path, needed: int) -> Finding:
    """Returns whether the output folder is writable and the disk has room."""
    folder = Path(output_dir).resolve()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not (existing.is_dir() and os.access(existing, os.W_OK)):
        advice = "Choose another --output_dir, or change its permissions"
        return Finding("disk", f"{existing.name}/ cannot be written", Verdict.STOP, advice)
    free = shutil.disk_usage(existing).free
    verdict = _judge(needed, free)
    advice = "" if verdict is Verdict.OK else "Free some space or choose another --output_dir"
    return Finding("disk", f"{needed / GB:.2f} GB to be written at most, {free / GB:.1f} GB free", verdict, advice)


def time_finding(trial: Trial, steps: int) -> Finding:
    """Returns the duration of all steps, without reading and validation."""
    seconds = trial.seconds * steps
    length = f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
    return Finding("time", f"{trial.seconds:.2f} s a step, {steps} steps in {length}, without reading and validation")


def views_finding(views: ViewCost) -> Finding:
    """Returns size and time of the stored views of all slices."""
    found = f"{views.bytes / GB:.2f} GB on disk until the teacher is written, computed in {views.seconds / 60:.1f} min"
    return Finding("views", found)


def _judge(needed: float, free: float) -> Verdict:
    return Verdict.STOP if needed > free else Verdict.LOOK if needed > TIGHT * free else Verdict.OK


__getattr__ = former_components(__name__)

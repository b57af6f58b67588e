"""The report at the end of the pipeline."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pipeline_stages import Pipeline

from tskd_monai.data.atomic import read_json
from tskd_monai.data.datalist import load_datalist, study_names
from tskd_monai.data.output_names import segmentation_path
from tskd_monai.data.task import Task
from tskd_monai.data.transfer_set import load_transfer_set
from tskd_monai.evaluation.comparison import compare_metrics
from tskd_monai.evaluation.latency import measure_latency
from tskd_monai.evaluation.report import Method, Report, write_report
from tskd_monai.evaluation.summary import class_means, read_metrics
from tskd_monai.networks.students import build_student
from tskd_monai.networks.teacher import load_teacher, read_teacher_record

TITLES = {
    "teacher": "Teacher ({encoder} + LoRA)",
    "student": "Distilled student",
    "scratch": "Same student from scratch",
}
LATENCY_REPEATS = 15
SYNTHETIC_SHOWN = 24


def write_pipeline_report(
    pipeline: Pipeline, datalist: Path, task: Task, settings: Mapping[str, str], notes: list[str]
) -> tuple[Path, str]:
    """Writes `report.html` and returns its path and the results as a text table.

    Args:
        pipeline: whose stages are finished.
        datalist: of the study.
        task: of the study.
        settings: shown in the report.
        notes: sentences the reader must know.
    """
    sections = load_datalist(datalist)
    entries = sections["test"]
    names = study_names(entries)
    encoder = read_teacher_record(pipeline.folder("teacher"))["spec"]["encoder"]
    latency = _latency(pipeline, task)
    training_seconds = {
        "teacher": pipeline.record("teacher")["seconds"],
        "student": pipeline.record("distilled")["seconds"] + pipeline.record("student")["seconds"],
        "scratch": pipeline.record("scratch")["seconds"],
    }
    methods = [
        Method(
            key=key,
            title=title.format(encoder=encoder),
            metrics_csv=pipeline.folder(f"predictions_{key}") / "metrics.csv",
            predictions={
                entry["case"]: segmentation_path(pipeline.folder(f"predictions_{key}"), name, task)
                for entry, name in zip(entries, names, strict=True)
            },
            parameters=pipeline.record(key)["parameters"],
            trainable_parameters=pipeline.record(key).get("trainable_parameters"),
            latency_ms=latency[key],
            history=pipeline.folder("distilled" if key == "student" else key) / "history.jsonl",
            seconds=training_seconds[key],
        )
        for key, title in TITLES.items()
    ]
    accepted = int(read_json(pipeline.folder("gates") / "gates.json")["counts"]["accepted"])
    synthetic = load_transfer_set(pipeline.folder("transfer_set"), task.hash, rejected=True)
    report = Report(
        title=f"{task.name}: task-specific knowledge distillation",
        summary=_summary(sections, accepted),
        methods=methods,
        comparison=("student", "scratch"),
        labels=task.foreground,
        cases=entries,
        synthetic_images=[Path(entry["image"]) for entry in synthetic[:SYNTHETIC_SHOWN]],
        gates=pipeline.folder("gates"),
        real_images=[Path(entry["image"]) for entry in sections["training"]],
        settings=settings,
        notes=notes,
    )
    path = pipeline.output_dir / "report.html"
    write_report(path, report)
    return path, _table(methods)


def _latency(pipeline: Pipeline, task: Task) -> dict[str, float]:
    """Median ms of one slice on the CPU, networks taking turns."""
    student = pipeline.record("student")["parameters"]
    network = build_student(_student_name(pipeline), task.channels, task.num_classes, task.image_size)
    if sum(parameter.numel() for parameter in network.parameters()) != student:
        raise ValueError("Expected the student that the record describes, found another number of parameters.")
    networks: dict[str, torch.nn.Module] = {"teacher": load_teacher(pipeline.folder("teacher")), "student": network}
    measured = measure_latency(networks, (1, task.channels, *task.image_size), repeats=LATENCY_REPEATS)
    milliseconds = {name: float(values["median_ms"]) for name, values in measured.items()}
    return {**milliseconds, "scratch": milliseconds["student"]}


def _student_name(pipeline: Pipeline) -> str:
    config = json.loads((pipeline.folder("student") / "configs" / "inference.json").read_text())
    return str(config["student"])


def _summary(sections: Mapping[str, Any], synthetic: int) -> str:
    labelled = sum(len(entry["slices"]) for entry in sections["training"] if "slices" in entry)
    budget = f"{labelled} labelled slices" if labelled else "all slices labelled"
    return (
        f"{len(sections['training'])} training patients ({budget}), {len(sections['validation'])} for validation and "
        f"{len(sections['test'])} for the test, which was read once. The teacher was tuned on the labelled slices; the "
        f"student learnt from it on every training slice, without labels, and on {synthetic} synthetic images, and "
        "was then fine-tuned on the labelled slices. The student from scratch had the same labels and the same "
        "training time as distillation and fine-tuning together; teacher and diffusion model come on top of that."
    )


def _table(methods: list[Method]) -> str:
    lines = [f"{'':36} {'Dice':>6} {'HD95 mm':>8} {'parameters':>11} {'ms/slice':>9} {'training':>9}"]
    for method in methods:
        rows = read_metrics(method.metrics_csv)
        dice = list(class_means(rows).values())
        distance = list(class_means(rows, "hd95_mm").values())
        lines.append(
            f"{method.title:36} {sum(dice) / len(dice):6.3f} {sum(distance) / len(distance):8.1f} "
            f"{method.parameters or 0:11,d} {method.latency_ms or 0:9.1f} {(method.seconds or 0) / 60:7.1f} m"
        )
    by_key = {method.key: method for method in methods}
    difference = compare_metrics(by_key["student"].metrics_csv, by_key["scratch"].metrics_csv)
    return "\n".join([*lines, difference.sentence()])

"""The report of a pipeline, written at its end."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from tskd_monai.bundle.stage_store import StageStore
from tskd_monai.commands.train.stages import SCORED, TARGETS, TEACHER, PipelineOptions, PlannedDataset
from tskd_monai.data.datalist import case_names, load_datalist
from tskd_monai.data.gates_file import Gates, read_gates
from tskd_monai.data.output_names import segmentation_path
from tskd_monai.data.task import Task
from tskd_monai.data.transfer_set import load_transfer_set
from tskd_monai.evaluation.comparison import compare_metrics
from tskd_monai.evaluation.report.picture import write_result_picture
from tskd_monai.evaluation.report.pipeline_content import Method, PipelineContent
from tskd_monai.evaluation.report.pipeline_page import write_pipeline_page
from tskd_monai.evaluation.report.unlike_images import unlike_images
from tskd_monai.evaluation.summary import class_means, finite_mean, read_metrics
from tskd_monai.files.json_files import read_json
from tskd_monai.networks.cost import count_parameters, measure_latency
from tskd_monai.networks.students import build_student
from tskd_monai.networks.teacher_folder import load_teacher, read_teacher_record

TITLES = {
    "teacher": "Teacher ({encoder} + LoRA)",
    "student": "Distilled student",
    "scratch": "Student from scratch",
    "self-training": "Student by self-training",
}
TRAINED_IN = {
    "teacher": ("teacher",),
    "student": ("distilled", "student"),
    "scratch": ("scratch",),
    "self-training": ("scratch", "self_distilled", "self_trained"),
}
"""Method -> the stages whose durations add up to its training time."""

CURVE_OF = {
    "teacher": "teacher",
    "student": "distilled",
    "scratch": "scratch",
    "self-training": "self_distilled",
}
"""Method -> the stage whose training curve is shown: the longest one."""

SYNTHETIC_SHOWN = 24


def write_pipeline_report(
    store: StageStore, dataset: PlannedDataset, options: PipelineOptions, settings: Mapping[str, str], notes: list[str]
) -> str:
    """Writes `report.html` and `result.png`, and returns the results as a text table.

    Args:
        store: store whose stages have all finished.
        dataset: dataset of the pipeline.
        options: options of the pipeline.
        settings: settings to show in the report, by name.
        notes: sentences that the reader must know.
    """
    task, sections = dataset.task, load_datalist(dataset.datalist)
    entries = sections["test"]
    methods = _methods(store, task, entries)
    gates = store.folder("gates") if options.synthesis else None
    synthetic = load_transfer_set(store.folder("transfer_set"), task.hash, rejected=True) if gates else []
    baselines = [method.key for method in methods if method.key not in ("teacher", "student")]
    report = PipelineContent(
        title=f"{task.name}: task-specific knowledge distillation",
        summary=_summary(sections, read_gates(gates) if gates else None, options, store),
        methods=methods,
        comparison=("student", *baselines),
        labels=task.foreground,
        ignore=task.ignore,
        cases=entries,
        synthetic_images=[Path(entry["image"]) for entry in synthetic[:SYNTHETIC_SHOWN]],
        gates=gates,
        targets=store.folder(TARGETS) if options.targets.needs_stage else None,
        real_images=[Path(entry["image"]) for entry in sections["training"]],
        settings=settings,
        notes=[*notes, *_unlike(store)],
    )
    write_pipeline_page(store.output_dir / "report.html", report)
    write_result_picture(store.output_dir / "result.png", report)
    return _table(methods, has_millimetres=task.axcodes is not None)


def _methods(store: StageStore, task: Task, entries: list[dict[str, Any]]) -> list[Method]:
    encoder = read_teacher_record(store.folder("teacher"))["spec"]["encoder"]
    latency = _latency(store, task)
    names = case_names(entries)
    run = {stage.name for stage in store.stages}
    return [
        Method(
            key=key,
            title=TITLES[key].format(encoder=encoder),
            metrics_csv=store.folder(f"predictions_{model}") / "metrics.csv",
            predictions={
                entry["case"]: segmentation_path(store.folder(f"predictions_{model}"), name, task)
                for entry, name in zip(entries, names, strict=True)
            },
            parameters=store.record(model)["parameters"],
            trainable_parameters=store.record(model).get("trainable_parameters"),
            latency_ms=latency["teacher" if key == "teacher" else "student"],
            history=store.folder(CURVE_OF[key]) / "history.jsonl",
            seconds=sum(store.record(stage)["seconds"] for stage in _trained_in(key, run)),
        )
        for key, model in SCORED.items()
        if f"predictions_{model}" in run
    ]


def _trained_in(key: str, stages: Collection[str]) -> list[str]:
    """Returns the stages of a method; the student's include further teachers and the targets, which serve it alone."""
    own = [name for name in stages if name == TARGETS or name.startswith(f"{TEACHER}_")] if key == "student" else []
    return [*own, *TRAINED_IN[key]]


def _unlike(store: StageStore) -> list[str]:
    """Returns a sentence for each test image that is unlike the training images."""
    found = unlike_images(store.folder("predictions_student"))
    return [f"Test image {name} is unlike the training images: {how}" for name, how in found.items()]


def _latency(store: StageStore, task: Task) -> dict[str, float | None]:
    """Returns the single-thread CPU time of one slice, ms, for the teacher and for the student."""
    network = build_student(_student_name(store), task.student_channels, task.num_classes, task.image_size)
    if count_parameters(network) != store.record("student")["parameters"]:
        raise ValueError("Expected the student that the record describes, found a different number of parameters.")
    networks: dict[str, torch.nn.Module] = {"teacher": load_teacher(store.folder("teacher")), "student": network}
    channels = {"teacher": task.channels, "student": task.student_channels}
    return measure_latency(networks, {name: (1, number, *task.image_size) for name, number in channels.items()})


def _student_name(store: StageStore) -> str:
    config = read_json(store.folder("student") / "configs" / "inference.json")
    return str(config["student"])


def _summary(sections: Mapping[str, Any], gates: Gates | None, options: PipelineOptions, store: StageStore) -> str:
    training, unlabelled = len(sections["training"]), len(sections["unlabeled"])
    slices = sum(len(entry["slices"]) for entry in sections["training"] if "slices" in entry)
    labels = f"{slices} labelled slices in {training} of them" if slices else f"{training} of them labelled"
    used = gates is not None and gates.is_used
    images = f", and on {gates.counts['accepted']} synthetic images" if gates and used else ""
    left_out = f" {gates.sentence}" if gates and not used else ""
    text = (
        f"{training + unlabelled} patients for training, {labels}; {len(sections['validation'])} patients for "
        f"validation, fully labelled; {len(sections['test'])} for the test, which this pipeline reads only in its last "
        "stages. The teacher was tuned on the labelled slices. The student learned from it on every slice of the "
        f"training patients, without labels{images}, and was then fine-tuned on the labelled slices."
        f"{options.targets.sentence}{left_out}"
    )
    if options.scratch_epochs is None:
        return text
    extra = "teacher and diffusion model come" if options.synthesis else "the teacher comes"
    steps = options.scratch_epochs * _epoch_length(store)
    return text + (
        f" The student from scratch had the same labels and {steps:,} steps: as many multiply-adds, forward and "
        f"backward, as distillation and fine-tuning together; {extra} on top of that. For "
        "self-training the student from scratch replaced the teacher, followed by the same steps."
    )


def _epoch_length(store: StageStore) -> int:
    rows = (store.folder("scratch") / "history.jsonl").read_text(encoding="utf-8").splitlines()
    row = json.loads(rows[0])
    return int(row["iteration"]) // int(row["epoch"])


def _table(methods: list[Method], has_millimetres: bool) -> str:
    unit = "mm" if has_millimetres else "px"
    header = f"{'':36} {'Dice':>6} {'HD95 ' + unit:>8} {'parameters':>11} {'CPU ms/slice':>12} {'training':>9}"
    lines = [header]
    for method in methods:
        rows = read_metrics(method.metrics_csv)
        dice, distance = (finite_mean(class_means(rows, metric).values()) for metric in ("dice", "hd95_mm"))
        latency = "-" if method.latency_ms is None else f"{method.latency_ms:.1f}"
        lines.append(
            f"{method.title:36} {dice:6.3f} {distance:8.1f} {method.parameters or 0:11,d} {latency:>12} "
            f"{(method.seconds or 0) / 60:7.1f} m"
        )
    _, student, *baselines = methods
    for baseline in baselines:
        difference = compare_metrics(student.metrics_csv, baseline.metrics_csv)
        lines.append(f"{student.title} minus {baseline.title.lower()}: {difference.sentence()}")
    return "\n".join(lines)

"""Runs a pipeline: checks its options, plans the task, runs the unfinished stages, writes the report."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tskd_monai.bundle.run import COMMANDS_FILE
from tskd_monai.bundle.stage_store import LOGS, StageStore
from tskd_monai.commands.bundle_command import sorted_messages
from tskd_monai.commands.task_files import plan_dataset
from tskd_monai.commands.train.checks import check_device, check_room, check_sections, check_student, check_student_name
from tskd_monai.commands.train.command import AUTO, FORCE, OFF
from tskd_monai.commands.train.options import load_preset, parse_teacher
from tskd_monai.commands.train.stages import SCORING, PipelineOptions, PlannedDataset, pipeline_stages, read_dataset
from tskd_monai.commands.train.target_options import TargetOptions, check_target_options, with_hashes
from tskd_monai.commands.user_data import datalist_of
from tskd_monai.data.datalist import load_datalist
from tskd_monai.files.checksum import ContentHashes
from tskd_monai.files.folder_lock import hold_folder
from tskd_monai.files.json_files import read_json, write_json
from tskd_monai.files.private_files import private_file
from tskd_monai.networks.pretrained import weights_path

logger = logging.getLogger(__name__)
SHOWN = ("tskd_monai.commands", "tskd_monai.bundle")
"""Modules whose messages are about stages rather than parts of them."""

SUMMARY, REPORT, LOG = "summary.txt", "report.html", "train.log"
STAND_IN_NOTE = (
    "The teacher's encoder ({encoder}) stands in for a real foundation model, which cannot be shipped with this "
    "project. --teacher facebook/sam-vit-base uses SAM instead."
)


def run_pipeline(args: argparse.Namespace) -> None:
    """Checks the options and runs the pipeline in its output folder, which is locked against other processes.

    Args:
        args: the parsed command line.

    Raises:
        ValueError: if an option, the data or a previous run is not valid.
        OSError: if a file is missing, or the disk is full.
    """
    preset = load_preset(args.preset)
    encoder, weights = parse_teacher(args.teacher)
    check_device(args.device)
    check_student_name(args.student)
    # Missing weights and an invalid datalist end the run here, with one line and nothing written.
    file = weights_path(encoder, weights)
    source = datalist_of(args.data, args.output_dir, args.labels, args.seed)
    check_sections(load_datalist(source, args.fold), args.data, scored=not args.no_test)
    targets = check_target_options(args, source)
    with hold_folder(args.output_dir), stage_messages(args.output_dir / LOGS):
        dataset = _planned(args, source, preset)
        options = _options(args, dataset, preset, encoder, weights, file, targets)
        summary = _run(args, dataset, options)
    lines = [f"Student bundle: {args.output_dir / 'student'}"]
    if not args.no_test:
        lines = [f"\n{summary}", *lines, f"Report: {args.output_dir / REPORT}"]
    print("\n".join(lines), flush=True)


@contextmanager
def stage_messages(folder: Path) -> Iterator[None]:
    """Shows the stages and all warnings of this project; everything else is in `train.log`, beside the stages' logs."""
    folder.mkdir(exist_ok=True)
    shown = logging.StreamHandler(sys.stderr)
    shown.addFilter(lambda record: record.levelno >= logging.WARNING or record.name.startswith(SHOWN))
    with sorted_messages(folder / LOG, shown):
        yield


def _planned(args: argparse.Namespace, source: Path, preset: Mapping[str, Any]) -> PlannedDataset:
    """Returns the dataset with its task, which is planned unless it was before.

    Args:
        args: the parsed command line.
        source: datalist of the user's data.
        preset: checked overrides of each stage.
    """
    datalist, task_file, task = plan_dataset(
        source,
        args.output_dir,
        args.image_size or preset["image_size"],
        neighbours=args.neighbours,
        labelled_slices=args.labelled_slices or _preset_budget(source, preset),
        fewer_slices=args.labelled_slices is None,
        seed=args.seed,
        fold=args.fold,
        datalist_dir=private_file(args.output_dir, "datalist.json").parent,
        task_file=args.task,
        replan=args.replan,
    )
    hashes = content_hashes(args.output_dir)
    dataset = read_dataset(datalist, task_file, task, hashes)
    hashes.save()
    return dataset


def _preset_budget(source: Path, preset: Mapping[str, Any]) -> int | None:
    """Returns the preset's number of labelled slices; None for a datalist that states which slices are labelled."""
    stated = any("slices" in entry for entry in load_datalist(source)["training"])
    return None if stated else preset["labelled_slices"]


def _options(
    args: argparse.Namespace,
    dataset: PlannedDataset,
    preset: Mapping[str, Any],
    encoder: str,
    weights: str,
    file: Path | None,
    targets: TargetOptions,
) -> PipelineOptions:
    """Returns the options of the stages.

    Args:
        args: the parsed command line.
        dataset: dataset with its task.
        preset: checked overrides of each stage.
        encoder: name of the teacher's encoder.
        weights: the encoder's weights as given by the user.
        file: path of these weights; None for random weights.
        targets: checked options on the student's targets.
    """
    hashes = content_hashes(args.output_dir)
    options = PipelineOptions(
        preset=preset,
        encoder=encoder,
        weights=str(Path(weights).resolve()) if Path(weights).exists() else weights,
        weights_sha256=None if file is None else hashes.of(file),
        student=args.student,
        seed=args.seed,
        device=args.device,
        scratch_epochs=None,
        synthesis=_wants_synthesis(args.synthesis, preset, args.output_dir),
        use_failed=args.synthesis == FORCE,
        targets=with_hashes(targets, hashes),
    )
    hashes.save()
    if preset["compare"] if args.compare is None else args.compare:
        return replace(options, scratch_epochs=_scratch_epochs(args.output_dir, dataset, options))
    return options


def _run(args: argparse.Namespace, dataset: PlannedDataset, options: PipelineOptions) -> str:
    """Runs every unfinished stage, writes the report, and returns the table of results; none without test cases."""
    output_dir = args.output_dir.resolve()
    stages = pipeline_stages(output_dir, dataset, options)
    if args.no_test:
        stages = [stage for stage in stages if not stage.name.startswith(SCORING)]
    store = StageStore(output_dir, stages, args.restart, args.keep)
    store.check()
    summary = output_dir / SUMMARY
    expected = None
    if not store.is_finished():
        check_student(args.student, dataset.task)
        check_room(output_dir, dataset, options.encoder, options.synthetic_images)
        summary.unlink(missing_ok=True)
        from tskd_monai.commands.train.duration import expected_seconds, synthesis_sentence  # take seconds to import

        expected = expected_seconds(dataset, options)
        if sentence := synthesis_sentence(expected, store.unfinished(), on_cpu=on_cpu(args.device)):
            logger.info("%s", sentence)
        logger.info("Commands of the stages: %s   Logs: %s/", args.output_dir / COMMANDS_FILE, args.output_dir / LOGS)
    store.run(expected)
    if args.no_test:
        return ""
    if not summary.is_file():
        _write_report(args, store, dataset, options, summary)
    return summary.read_text(encoding="utf-8").rstrip()


def content_hashes(output_dir: Path) -> ContentHashes:
    """Returns the content hashes that an output folder keeps."""
    return ContentHashes(private_file(output_dir.resolve(), "content_hashes.json"))


def _wants_synthesis(wanted: str, preset: Mapping[str, Any], output_dir: Path) -> bool:
    """Returns whether to train a diffusion model: as the option or the preset states, else only on a GPU.

    Its images have not improved the student in the measurements so far.
    """
    if wanted != AUTO:
        return wanted != OFF
    if preset["synthesis"] is not None:
        return bool(preset["synthesis"])
    if torch.cuda.is_available() or (output_dir / "diffusion").is_dir():
        return True
    logger.info("Synthesis: off, because this machine has no GPU; --synthesis on trains the diffusion model anyway.")
    return False


def on_cpu(device: str | None) -> bool:
    """Returns whether training runs on a CPU with this `--device`."""
    return device == "cpu" if device else not torch.cuda.is_available()


def _scratch_epochs(output_dir: Path, dataset: PlannedDataset, options: PipelineOptions) -> int:
    """Returns the epochs of training from scratch, computed once for these settings."""
    known = output_dir / "stages" / "effort.json"
    images = (dataset.slices + options.synthetic_images) * options.targets.teachers
    settings = [options.preset, dataset.task.student_hash, options.encoder, options.student, images]
    if known.is_file() and (content := read_json(known))["settings"] == settings:
        return int(content["scratch_epochs"])
    from tskd_monai.commands.train.effort import scratch_epochs

    epochs = scratch_epochs(options.preset, dataset.task, options.encoder, options.student, images)
    write_json(known, {"settings": settings, "scratch_epochs": epochs})
    return epochs


def _write_report(
    args: argparse.Namespace, store: StageStore, dataset: PlannedDataset, options: PipelineOptions, summary: Path
) -> None:
    from tskd_monai.commands.train.report import write_pipeline_report
    from tskd_monai.files.atomic import atomic_path

    settings = {
        "preset": Path(args.preset).name,
        "teacher": args.teacher if "=" not in args.teacher else f"{options.encoder}, weights from a file",
        "student": options.student,
        "seed": str(options.seed),
        "image size": f"{dataset.task.image_size[0]} x {dataset.task.image_size[1]}",
    }
    stand_in = not options.encoder.startswith(("sam_vit", "medsam"))
    notes = [STAND_IN_NOTE.format(encoder=options.encoder)] if stand_in else []
    table = write_pipeline_report(store, dataset, options, settings, notes)
    with atomic_path(summary) as temporary:
        temporary.write_text(table + "\n", encoding="utf-8")

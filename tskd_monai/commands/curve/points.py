"""Trains the students of a learning curve as stages of one store, and writes curve.html, curve.csv and curve.png."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tskd_monai.bundle.run import COMMANDS_FILE
from tskd_monai.bundle.stage_store import LOGS, Stage, StageStore
from tskd_monai.bundle.time_left import about
from tskd_monai.commands.curve.command import DISTIL
from tskd_monai.commands.task_files import plan_dataset
from tskd_monai.commands.train.checks import check_device, check_room, check_sections, check_student, check_student_name
from tskd_monai.commands.train.options import load_preset, parse_teacher
from tskd_monai.commands.train.pipeline import content_hashes, on_cpu, stage_messages
from tskd_monai.commands.train.stages import SCORING, PipelineOptions, PlannedDataset, StageBuilder, read_dataset
from tskd_monai.commands.user_data import datalist_of
from tskd_monai.data.datalist import case_names, labelled_subset, load_datalist, restrict_labels
from tskd_monai.files.checksum import ContentHashes
from tskd_monai.files.folder_lock import hold_folder
from tskd_monai.files.json_files import write_json
from tskd_monai.files.private_files import private_file
from tskd_monai.networks.pretrained import weights_path

logger = logging.getLogger(__name__)

FRACTIONS = (0.10, 0.25, 0.50, 1.00)
FEWEST_SLICES = 20
"""Below, the smallest point is a single slice."""
FEWEST_PATIENTS = 2
MORE = 25
EVERY_SLICE = 10**9
MAY_LACK_A_CLASS = {"train#sampler#absent": "warn"}
"""Few slices, drawn without reading labels, may show not every class of the task."""


@dataclass(frozen=True)
class Point:
    """One training run of the curve.

    Attributes:
        slices: number of labelled slices.
        seed: seed of the draw of the slices and of training.
    """

    slices: int
    seed: int

    @property
    def key(self) -> str:
        """Its name in those of stages."""
        return f"{self.slices}_seed_{self.seed}"

    @property
    def student(self) -> str:
        """Name of the stage that trains the student."""
        return f"student_{self.key}"


def run_curve(args: argparse.Namespace) -> None:
    """Checks the options, trains and scores the student of every point, and writes the curve.

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
    file = weights_path(encoder, weights) if args.method == DISTIL else None
    source = datalist_of(args.data, args.output_dir, args.labels, args.seed)
    _check_data(load_datalist(source, args.fold), args.data)
    with hold_folder(args.output_dir), stage_messages(args.output_dir / LOGS):
        dataset = _planned(args, source, preset)
        total = _labelled(dataset.datalist)
        points = curve_points(total, range(args.seed, args.seed + args.seeds), args.data)
        more = _more(args.more, points[-1].slices)
        hashes = content_hashes(args.output_dir)
        given = str(Path(weights).resolve()) if Path(weights).exists() else weights
        options = PipelineOptions(
            preset, encoder, given, hashes.of(file) if file else None, args.student, args.seed, args.device, None,
            synthesis=False,
        )  # fmt: skip
        options = replace(options, scratch_epochs=_scratch_epochs(args.method, dataset, options))
        store = _trained(args, dataset, options, points, hashes)
        from tskd_monai.commands.curve.results import write_curve  # matplotlib takes a second to import

        summary = write_curve(args, store, dataset, points, more)
    print(f"\n{summary}\nReport: {args.output_dir / 'curve.html'}", flush=True)


def curve_points(total: int, seeds: Sequence[int], data: Path) -> list[Point]:
    """Returns the points, the smallest first, so that an interrupted run has whole points.

    Args:
        total: number of labelled slices.
        seeds: seeds of the runs at each point.
        data: the user's data, for messages.

    Raises:
        ValueError: if there are fewer than 20 labelled slices.
    """
    if total < FEWEST_SLICES:
        raise ValueError(
            f"Expected at least {FEWEST_SLICES} labelled training slices for points at 10, 25, 50 and 100 % of them, "
            f"found {total} in {data}; label more, or raise --labelled-slices."
        )
    return [Point(round(fraction * total), seed) for fraction in FRACTIONS for seed in seeds]


def point_datalist(datalist: Mapping[str, Any], point: Point) -> dict[str, Any]:
    """Returns the datalist of a point, without test cases: only some of the labelled slices are labelled.

    The slices of one seed are nested and spread over the patients (`labelled_subset`).

    Args:
        datalist: datalist whose training entries have `slices`.
        point: the point.
    """
    named = dict(zip(case_names(datalist["training"]), datalist["training"], strict=True))
    drawn = labelled_subset({name: len(entry["slices"]) for name, entry in named.items()}, point.slices, point.seed)
    chosen = {name: [named[name]["slices"][index] for index in indices] for name, indices in drawn.items()}
    return {**restrict_labels(datalist, chosen), "test": []}


def point_stages(builder: StageBuilder, point: Point, method: str) -> list[Stage]:
    """Returns the stages of a point: its student, and the score of the validation patients.

    Args:
        builder: builder for the point's dataset and seed.
        point: the point.
        method: `scratch` or `distil`.
    """
    if method == DISTIL:
        teacher = f"teacher_{point.key}"
        distilled, tuned = builder.student(f"distilled_{point.key}", point.student, teacher, "")
        stages = [_lenient(builder.teacher(name=teacher)), distilled, _lenient(tuned)]
    else:
        epochs = builder.options.scratch_epochs or 1
        stages = [_lenient(builder.scratch(point.student, epochs, "student from scratch"))]
    stages.append(builder.scoring("student", point.student, "validation"))
    return [replace(stage, title=f"{point.slices} slices, seed {point.seed}: {stage.title}") for stage in stages]


def _lenient(stage: Stage) -> Stage:
    return replace(stage, settings={**stage.settings, **MAY_LACK_A_CLASS})


def _check_data(datalist: Mapping[str, Any], data: Path) -> None:
    check_sections(datalist, data, scored=False)
    patients = len({entry["case"] for entry in datalist["validation"]})
    if patients < FEWEST_PATIENTS:
        raise ValueError(
            f"Expected at least {FEWEST_PATIENTS} patients in `validation` of {data} for an interval over patients, "
            f"found {patients}; move one there from `training`."
        )


def _planned(args: argparse.Namespace, source: Path, preset: Mapping[str, Any]) -> PlannedDataset:
    """Returns the dataset with its task and the numbers of all labelled slices; every point has the same task."""
    datalist, task_file, task = plan_dataset(
        source,
        args.output_dir,
        args.image_size or preset["image_size"],
        labelled_slices=args.labelled_slices or EVERY_SLICE,
        fewer_slices=args.labelled_slices is None,
        seed=args.seed,
        fold=args.fold,
        datalist_dir=private_file(args.output_dir, "datalist.json").parent,
        replan=args.replan,
    )
    hashes = content_hashes(args.output_dir)
    dataset = read_dataset(datalist, task_file, task, hashes)
    hashes.save()
    return dataset


def _labelled(datalist: Path) -> int:
    return sum(len(entry["slices"]) for entry in load_datalist(datalist)["training"])


def _more(wanted: int | None, total: int) -> int:
    if wanted is not None and wanted > total:
        raise ValueError(
            f"Expected --more of at most {total}, as many slices as are labelled, found {wanted}; beyond twice the "
            "labels the curve says nothing."
        )
    return wanted or min(MORE, total)


def _scratch_epochs(method: str, dataset: PlannedDataset, options: PipelineOptions) -> int | None:
    if method == DISTIL:
        return None
    from tskd_monai.commands.train.effort import scratch_epochs  # builds the teacher, which takes seconds

    return scratch_epochs(options.preset, dataset.task, options.encoder, options.student, dataset.slices)


def _trained(
    args: argparse.Namespace,
    dataset: PlannedDataset,
    options: PipelineOptions,
    points: Sequence[Point],
    hashes: ContentHashes,
) -> StageStore:
    """Runs the unfinished stages and returns the store."""
    output_dir = args.output_dir.resolve()
    datalist = load_datalist(dataset.datalist)
    stages = []
    for point in points:
        path = private_file(output_dir, f"datalist_{point.key}.json")
        write_json(path, point_datalist(datalist, point))
        own = read_dataset(path, dataset.task_file, dataset.task, hashes)
        stages += point_stages(StageBuilder(output_dir, own, replace(options, seed=point.seed)), point, args.method)
    hashes.save()
    store = StageStore(output_dir, stages, args.restart, args.keep)
    store.check()
    expected = None
    if not store.is_finished():
        check_student(args.student, dataset.task)
        check_room(output_dir, dataset, options.encoder, 0)
        expected = _expected(dataset, options, stages)
        _announce(args, points, sum(expected[name] for name in store.unfinished()))
    store.run(expected)
    return store


def _expected(dataset: PlannedDataset, options: PipelineOptions, stages: Sequence[Stage]) -> dict[str, float]:
    """Returns the expected duration of each stage, s."""
    from tskd_monai.commands.train.duration import expected_seconds

    usual = expected_seconds(dataset, options, "validation")
    student = "scratch" if options.scratch_epochs else "student"
    kinds = {"teacher": "teacher", "distilled": "distilled", "student": student,
             SCORING.rstrip("_"): f"{SCORING}student"}  # fmt: skip
    return {stage.name: usual[kinds[stage.name.partition("_")[0]]] for stage in stages}


def _announce(args: argparse.Namespace, points: Sequence[Point], seconds: float) -> None:
    numbers = list(dict.fromkeys(point.slices for point in points))
    where = "on two cores" if on_cpu(args.device) else "on two cores, less with a GPU"
    logger.info(
        "Learning curve: %d students at %s labelled slices, %d at each; %s %s.",
        len(points), ", ".join(map(str, numbers)), args.seeds, about(seconds), where,
    )  # fmt: skip
    logger.info("Commands of the stages: %s   Logs: %s/", args.output_dir / COMMANDS_FILE, args.output_dir / LOGS)

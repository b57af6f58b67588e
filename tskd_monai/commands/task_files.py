"""The files of a planned task: `task.json`, which may be edited, and the checked datalist; written once."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tskd_monai.data.datalist import case_names, labelled_subset, load_datalist, restrict_labels
from tskd_monai.data.fitness import unlike_most
from tskd_monai.data.planning.files import PlanFiles
from tskd_monai.data.planning.fingerprint import Fingerprint
from tskd_monai.data.planning.record import (
    PlanRecord,
    check_new_tests,
    check_options,
    check_same_plan,
    check_task_fits,
    in_recorded_order,
    load_record,
    record_of,
)
from tskd_monai.data.planning.rules import fingerprints, image_extents, plan_task, slice_axis_of, slice_counts
from tskd_monai.data.task import Task, load_task
from tskd_monai.files.checksum import ContentHashes
from tskd_monai.transforms.slice_spacing import check_resampling

logger = logging.getLogger(__name__)


def plan_dataset(
    datalist_path: str | Path,
    output_dir: str | Path,
    image_size: int | None = None,
    intensity: str | None = None,
    labelled_slices: int | None = None,
    seed: int = 0,
    fold: int | None = None,
    datalist_dir: Path | None = None,
    task_file: Path | None = None,
    replan: bool = False,
    fewer_slices: bool = False,
    neighbours: int | None = None,
) -> tuple[Path, Path, Task]:
    """Writes `datalist.json` (absolute paths, checked) and `task.json` into a folder, once.

    A later call reads the task, edited or not, and no image. Moved files and a changed `test` section are updated in
    `datalist.json`; any other difference from the data and options that the task was planned from is rejected.

    Args:
        datalist_path: Decathlon-style datalist.
        output_dir: folder of both files.
        image_size: rows and columns of the network input; None: planned.
        intensity: intensity scaling; None: planned.
        labelled_slices: number of training slices to use as labelled; None: all of them.
        seed: seed of the draw of labelled slices.
        fold: fold of the datalist's cross-validation.
        datalist_dir: folder of files that may name patients: `datalist.json` and `plan.json`; None: `output_dir`.
        task_file: a task to use instead of a planned one.
        replan: plan again; the previous files are kept beside the new ones, as `task.before-<hash>.json`.
        fewer_slices: use all training slices if there are fewer than `labelled_slices`, instead of an error.
        neighbours: slices on each side that a student takes as further channels; None: 0, or those of the task in use.

    Returns:
        The paths of both files, and the task.

    Raises:
        FileNotFoundError: if the datalist, a file that it names or `task_file` is missing.
        ValueError: if the data cannot be planned, differs from the data that the stored task was planned from, or its
            datalist would be overwritten.
    """
    files = PlanFiles(Path(output_dir) / "task.json", Path(datalist_dir or output_dir))
    if Path(datalist_path).resolve() == files.datalist.resolve():
        raise ValueError(
            f"Expected another folder as --output-dir than that of {datalist_path}, which would be overwritten; leave "
            "the option out, or choose a new folder."
        )
    options = {"image_size": image_size, "intensity": intensity, "labelled_slices": labelled_slices, "seed": seed,
               "fold": fold, "neighbours": neighbours}  # fmt: skip
    source = {name: value for name, value in load_datalist(datalist_path, fold).items() if name != "folds"}
    hashes = ContentHashes(files.folder / "content_hashes.json")
    found = record_of(source, options, hashes)
    given = Path(task_file) if task_file else files.task if files.task.is_file() and not replan else None
    task = load_task(given) if given else None
    stored = None if replan else load_record(files.record)
    if task is None or stored is None:
        record, planned = _plan(source, options, found, fewer_slices)
        task = task or planned
    else:
        check_same_plan(stored, found)
        check_new_tests(source, found, stored, task)
        record = replace(stored, sections={**stored.sections, "test": found.sections["test"]})
    if given:
        check_options(options, record.options if stored else {}, task, given.name)
        check_task_fits(task, record, given.name)
    datalist = in_recorded_order(source, found, record)
    if record.chosen is not None:
        datalist = restrict_labels(datalist, record.chosen)
    files.write(task, datalist, record, replan)
    hashes.save()
    return files.datalist, files.task, task


def _plan(
    source: dict[str, Any], options: dict[str, Any], found: PlanRecord, fewer_slices: bool
) -> tuple[PlanRecord, Task]:
    """Returns the record of a plan, with the labelled slices drawn within the budget, and the task for the data."""
    size, intensity, budget = (options[name] for name in ("image_size", "intensity", "labelled_slices"))
    prints = fingerprints(source, intensity, partly=None if budget is None else True)
    task = with_neighbouring_slices(plan_task(source, size, intensity, prints=prints), options["neighbours"])
    _check_images(source, prints, task)
    if budget is None:
        return found.planned(task, None, prints.values()), task
    # The slice axis does not depend on the labels that are about to be left out.
    counts = slice_counts(source["training"], prints, task)
    named = zip(case_names(source["training"]), source["training"], strict=True)
    labelled = {name: entry.get("slices", range(counts[name])) for name, entry in named}
    counts = {name: len(slices) for name, slices in labelled.items()}
    budget = min(budget, sum(counts.values())) if fewer_slices else budget
    drawn = labelled_subset(counts, budget, options["seed"])
    chosen = {name: [labelled[name][index] for index in indices] for name, indices in drawn.items()}
    task = plan_task(restrict_labels(source, chosen), size, intensity, prints=prints)
    task = with_neighbouring_slices(task, options["neighbours"])
    return found.planned(task, chosen, prints.values()), task


def with_neighbouring_slices(task: Task, neighbours: int | None) -> Task:
    """Returns a task whose student takes this many slices on each side; None: unchanged.

    Raises:
        ValueError: if the task is for single 2D images, or there are too many.
    """
    try:
        return task if neighbours is None else replace(task, neighbours=neighbours)
    except ValueError as error:
        raise ValueError(f"--neighbours: {error}; leave the option out to train on single slices.") from error


def _check_images(source: Mapping[str, Any], prints: Mapping[str, Fingerprint], task: Task) -> None:
    """Warns of images that are unlike most of the images used for training.

    Raises:
        ValueError: if an image's spacing cannot be correct given that of the task; training would reject it.
    """
    for found in prints.values():
        check_spacing(found, task)
    unit = "pixels" if task.axcodes is None else "mm"
    for path, differences in unlike_most(image_extents(source, prints, slice_axis_of(task)), unit).items():
        logger.warning("Case %s is unlike the other images: %s.", prints[path].case, "; ".join(differences))


def check_spacing(found: Fingerprint, task: Task) -> None:
    """Raises ValueError when an image's spacing cannot be right at that of the task; training would refuse it."""
    axis = slice_axis_of(task)
    in_plane = [other for other in range(3) if other != (2 if axis is None else axis)]
    size, spacing = ([values[other] for other in in_plane] for values in (found.shape, found.spacing))
    slices = math.prod(found.shape) // math.prod(size)
    name = f"{found.name} (`{found.section}` case {found.case})"
    unit = "pixels" if axis is None else "mm"
    check_resampling([found.channels, *map(int, size), int(slices)], spacing, task.pixdim, name, unit)

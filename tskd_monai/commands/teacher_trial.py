"""Tries a promptable model on your own labelled data: the Dice of what it makes of boxes around your structures.

tskd teachers try lite_medsam mydata/ --labels liver=1,spleen=4
tskd teachers try medsam_vit_base=medsam_vit_b.pth study/datalist.json --section training --cases 4

Each structure of a slice is prompted with the box around its label, each side shifted by up to --jitter pixels. The
Dice of a structure is that of all slices tried of a case, then the mean over cases. It shows how well the model
outlines what it is pointed at in such images, and so whether it is worth trying as a teacher or to refine targets.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from tskd_monai.commands.command_parser import LABELS_HELP, CommandParser

if TYPE_CHECKING:
    from tskd_monai.data.task import Task
    from tskd_monai.evaluation.box_prompts import StructureDice
    from tskd_monai.networks.promptable import PromptableSegmenter


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Returns the parsed command line."""
    parser = CommandParser("teachers try", __doc__)
    parser.add_argument("model", help="a model of `tskd teachers`, NAME=FILE or a hub id, as --teacher of tskd train")
    parser.add_argument("data", type=Path, help="a datalist, or a folder with images/ and labels/")
    parser.add_argument("--labels", help=LABELS_HELP)
    parser.add_argument("--section", default="training", help="section of the datalist (default: training)")
    parser.add_argument("--fold", type=int, help="fold of the datalist's cross-validation")
    parser.add_argument("--cases", type=_positive, default=5, help="cases to try (default: 5)")
    parser.add_argument(
        "--slices-per-case", type=_positive, default=8, help="slices of each, spread over those with a structure"
    )
    parser.add_argument("--size", type=int, help="side of the images in pixels (default: that of the model)")
    parser.add_argument("--jitter", type=float, default=3.0, help="largest shift of a side in pixels (default: 3)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the shifts")
    parser.add_argument("--device", default="cpu", help="device, such as cuda:0 (default: cpu)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the command line, prompts the model and prints a table."""
    args = parse_arguments(argv)
    from tskd_monai.commands.bundle_command import LOG_FILE, sorted_messages
    from tskd_monai.commands.train.checks import check_device
    from tskd_monai.commands.train.options import parse_teacher
    from tskd_monai.networks.encoder_records import encoder_record
    from tskd_monai.networks.promptable import build_promptable

    name, weights = parse_teacher(args.model)
    check_device(args.device)
    size = args.size or encoder_record(name).image_size
    model = build_promptable(name, weights, size)
    model.to(args.device)
    # Messages on sections are about training.
    with TemporaryDirectory() as folder, sorted_messages(Path(folder) / LOG_FILE, logging.NullHandler()):
        task, entries = _planned(args, size, Path(folder))
        results, slices, seconds = _try(model, entries, task, args)
    print(f"{name} at {size} x {size} pixels, boxes with sides off by up to {args.jitter:g} pixels, seed {args.seed}")
    print("\n".join(table(results, task)))
    print(f"{slices} slices of {len(entries)} cases in {seconds:.0f} s, {seconds / max(slices, 1):.1f} s a slice")
    return 0


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a number above 0, found {text}")
    return value


def _planned(args: argparse.Namespace, size: int, folder: Path) -> tuple[Task, list[dict[str, Any]]]:
    """Returns a task for the chosen cases at the size of the images, and their entries; `folder` is scratch space."""
    from tskd_monai.commands.user_data import datalist_of
    from tskd_monai.data.datalist import SECTIONS, load_datalist
    from tskd_monai.data.planning.rules import draft_task, fingerprints

    datalist = load_datalist(datalist_of(args.data, folder, args.labels), args.fold)
    if args.section not in SECTIONS:
        raise ValueError(f"Expected --section out of {', '.join(SECTIONS)}, found {args.section}.")
    entries = [dict(entry) for entry in datalist[args.section] if "label" in entry][: args.cases]
    if not entries:
        raise ValueError(f"Expected labelled cases in `{args.section}` of {args.data}, found none; try --section.")
    chosen = {**datalist, **dict.fromkeys(SECTIONS, []), "training": entries}
    return draft_task(chosen, size, None, None, fingerprints(chosen)), entries


def _try(
    model: PromptableSegmenter, entries: Sequence[dict[str, Any]], task: Task, args: argparse.Namespace
) -> tuple[list[list[StructureDice]], int, float]:
    """Returns the Dice of each case, the number of slices and the seconds of the model."""
    import torch

    from tskd_monai.data.slices import SliceDataset
    from tskd_monai.evaluation.box_prompts import box_prompted_dice, evenly_spaced
    from tskd_monai.transforms.pipelines import training_preprocessing

    generator = torch.Generator().manual_seed(args.seed)
    results, slices, seconds = [], 0, 0.0
    for entry in entries:
        dataset = SliceDataset([entry], training_preprocessing(task))
        shown = [index for index, classes in enumerate(dataset.classes_present()) if classes]
        items = [dataset[shown[index]] for index in evenly_spaced(len(shown), args.slices_per_case)]
        images = [item["image"].to(args.device) for item in items]
        start = time.perf_counter()
        results.append(box_prompted_dice(model, images, [item["label"] for item in items],
                                         jitter=args.jitter, generator=generator))  # fmt: skip
        seconds += time.perf_counter() - start
        slices += len(items)
    return results, slices, seconds


def table(results: Sequence[Sequence[StructureDice]], task: Task) -> list[str]:
    """Returns the lines of a table with the mean Dice of each structure over the cases that show it."""
    lines = [f"{'structure':<20}{'Dice':>7}{'lowest':>8}{'highest':>9}{'cases':>7}{'slices':>8}"]
    for index, label in enumerate(task.labels):
        found = [result for case in results for result in case if result.label == index]
        if index and found:
            dice = [result.dice for result in found]
            counts = f"{len(found):>7}{sum(result.slices for result in found):>8}"
            lines.append(f"{label.name:<20}{mean(dice):>7.3f}{min(dice):>8.3f}{max(dice):>9.3f}{counts}")
    return lines

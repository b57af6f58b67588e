"""Trains a teacher on your images, distils it into a small student, scores both and writes a report.

tskd train study/datalist.json --output-dir runs/study --preset small
tskd train mydata/ --labels liver,spleen --teacher sam_vit_base=sam_vit_b.pth --labelled-slices 40

DATA is a datalist, a folder with images/, labels/ and optionally unlabelled/, or a Decathlon or nnU-Net dataset.
Every stage is a run of a MONAI bundle. If interrupted, the same command resumes; finished stages are not run again.
What was made from other settings or data is never removed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tskd_monai.commands.bundle_command import plain_messages
from tskd_monai.commands.command_parser import LABELS_HELP, CommandParser, output_folder
from tskd_monai.commands.train.target_options import add_target_options, positive_number

AUTO, ON, OFF, FORCE = "auto", "on", "off", "force"
STRIDE = 16
"""Every network reduces the resolution by this factor."""


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Returns the parsed command line."""
    parser = CommandParser("train", __doc__)
    parser.add_argument("data", type=Path, nargs="?", help="datalist or folder")
    parser.add_argument("--datalist", type=Path, help=argparse.SUPPRESS)  # its name in 0.1
    parser.add_argument("--output-dir", type=output_folder, help="folder of all outputs (default: runs/NAME)")
    parser.add_argument("--labels", help=LABELS_HELP)
    parser.add_argument(
        "--teacher",
        default="sam_demo",
        help="encoder: a name of `tskd teachers`, NAME=WEIGHTS, a file or folder of weights, or a hub id",
    )
    parser.add_argument(
        "--preset", default="small", help="demo, small, full, or the path of a YAML file like presets.yaml"
    )
    parser.add_argument(
        "--student", default="compact_unet_small", help="student network, such as compact_unet_base or vit_tiny"
    )
    parser.add_argument(
        "--image-size",
        type=image_size,
        metavar="PIXELS",
        help="side of the network input, a multiple of 16; default: the preset's",
    )
    parser.add_argument(
        "--labelled-slices",
        type=positive_number,
        metavar="NUMBER",
        help="number of labelled training slices; default: at most the preset's",
    )
    parser.add_argument("--neighbours", type=int, help="slices on each side that the student sees too: 0 to 2")
    parser.add_argument("--fold", type=int, help="fold of the datalist's cross-validation, from 0")
    parser.add_argument("--seed", type=int, default=0, help="seed of every training run (default: 0)")
    parser.add_argument(
        "--synthesis",
        choices=(AUTO, ON, OFF, FORCE),
        metavar="WHEN",
        default=AUTO,
        help="learn from synthetic images that pass their gates: on, off, or auto: the preset's, else with a GPU; "
        "force: even if they fail",
    )
    parser.add_argument(
        "--compare",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="also train it from scratch and by self-training; default: the preset's",
    )
    parser.add_argument("--no-test", action="store_true", help="score nothing and write no report; needs no test cases")
    add_target_options(parser)
    parser.add_argument("--device", help="device, such as cpu or cuda:0; default: the GPU if there is one")
    parser.add_argument("--task", type=Path, help="a task.json to use instead of planning one from the data")
    parser.add_argument("--replan", action="store_true", help="plan the task again; the previous one is kept")
    parser.add_argument(
        "--restart",
        nargs="+",
        default=[],
        metavar="STAGE",
        help="stages to run again after changes; their previous folders are kept",
    )
    parser.add_argument(
        "--keep", nargs="+", default=[], metavar="STAGE", help="finished stages to use as they are despite such changes"
    )
    args = parser.parse_args(arguments)
    args.data = args.data or args.datalist
    if args.data is None:
        parser.error("expected DATA, a datalist or a folder")
    return args


def image_size(text: str) -> int:
    """Returns a side of the network input; raises argparse's error for one that no network takes."""
    size = positive_number(text)
    if size % STRIDE:
        near = max(STRIDE, STRIDE * round(size / STRIDE))
        raise argparse.ArgumentTypeError(f"expected a multiple of {STRIDE}, found {size}; the nearest is {near}")
    return size


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the command line and runs the pipeline."""
    args = parse_arguments(argv)
    from tskd_monai.commands.train.pipeline import run_pipeline  # torch and MONAI take seconds to import
    from tskd_monai.commands.user_data import dataset_name

    plain_messages()
    args.output_dir = args.output_dir or Path("runs", dataset_name(args.data))
    run_pipeline(args)

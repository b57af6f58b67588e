"""Tells from your labels what more of them would bring: a learning curve with an interval.

tskd curve study/datalist.json --output-dir runs/study_curve --preset small
tskd curve mydata/ --labels liver,spleen --method distil --seeds 3 --more 50

Trains students on 10, 25, 50 and 100 % of the labelled slices, nested and spread over the patients, scores them on the
validation patients (never on test), fits a curve and writes curve.html, curve.csv and curve.png. The expected time is
stated first. If interrupted, the same command resumes; finished points are not trained again.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tskd_monai.commands.bundle_command import plain_messages
from tskd_monai.commands.command_parser import LABELS_HELP, CommandParser, output_folder
from tskd_monai.commands.train.command import image_size
from tskd_monai.commands.train.target_options import positive_number

SCRATCH, DISTIL = "scratch", "distil"


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Returns the parsed command line."""
    parser = CommandParser("curve", __doc__)
    parser.add_argument("data", type=Path, help="datalist or folder")
    parser.add_argument(
        "--output-dir", type=output_folder, metavar="DIR", help="folder of all outputs (default: runs/NAME_curve)"
    )
    parser.add_argument("--labels", help=LABELS_HELP)
    parser.add_argument("--preset", default="small", help="demo, small, full, or a YAML file, as of tskd train")
    parser.add_argument(
        "--method",
        choices=(SCRATCH, DISTIL),
        default=SCRATCH,
        help="students from scratch, or distilled from a teacher each (takes longer)",
    )
    parser.add_argument("--teacher", default="sam_demo", help="encoder of the teacher, as of tskd train")
    parser.add_argument("--student", default="compact_unet_small", help="student network")
    parser.add_argument("--image-size", type=image_size, metavar="PIXELS", help="side of the network input")
    parser.add_argument(
        "--labelled-slices", type=positive_number, metavar="NUMBER", help="slices to use as 100 %%; default: all"
    )
    parser.add_argument(
        "--more", type=positive_number, metavar="NUMBER", help="further slices to foretell (default: 25)"
    )
    parser.add_argument("--fold", type=int, help="fold of the datalist's cross-validation, from 0")
    parser.add_argument(
        "--seeds", type=positive_number, default=2, metavar="N", help="training runs at each point (default: 2)"
    )
    parser.add_argument("--seed", type=int, default=0, help="first seed (default: 0)")
    parser.add_argument("--device", help="device, such as cpu or cuda:0")
    parser.add_argument("--replan", action="store_true", help="plan the task again; the previous one is kept")
    parser.add_argument("--restart", nargs="+", default=[], metavar="STAGE", help="stages to run again after changes")
    parser.add_argument("--keep", nargs="+", default=[], metavar="STAGE", help="stages to keep despite changes")
    return parser.parse_args(arguments)


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the command line, trains the students and writes the curve."""
    args = parse_arguments(argv)
    from tskd_monai.commands.curve.points import run_curve  # torch and MONAI take seconds to import
    from tskd_monai.commands.user_data import dataset_name

    plain_messages()
    args.output_dir = args.output_dir or Path("runs", f"{dataset_name(args.data)}_curve")
    run_curve(args)

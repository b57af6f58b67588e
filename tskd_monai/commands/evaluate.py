"""Segments the cases of a dataset with a student and scores them: Dice, surface distances, volumes, and a report.

tskd evaluate runs/mystudy/student study/datalist.json --section test
tskd evaluate shipped mydata/ --labels liver=1,spleen=4

DATA is a datalist, of which one section is scored, or a folder with images/ and labels/, whose labelled images are all
scored.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tskd_monai.commands.command_parser import LABELS_HELP, CommandParser, output_folder
from tskd_monai.commands.student_argument import add_engine, add_student, student_folder


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Returns the parsed command line."""
    parser = CommandParser("evaluate", __doc__)
    add_student(parser)
    parser.add_argument("data", type=Path, help="a datalist, or a folder with images/ and labels/")
    parser.add_argument("--output-dir", type=output_folder, default=Path("evaluation"), help="default: evaluation/")
    parser.add_argument(
        "--section",
        choices=("training", "validation", "test"),
        default="test",
        help="section of a datalist (default: test)",
    )
    parser.add_argument("--fold", type=int, help="fold of the datalist's cross-validation")
    parser.add_argument("--labels", help=LABELS_HELP)
    add_engine(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the command line, segments, scores, and prints the means."""
    args = parse_arguments(argv)
    from tskd_monai.bundle.run import BundleRun
    from tskd_monai.commands.bundle_command import run_bundle
    from tskd_monai.commands.user_data import labelled_datalist
    from tskd_monai.evaluation.summary import class_means, finite_mean, read_metrics

    student = student_folder(args.student)
    output_dir = args.output_dir.resolve()
    overrides: dict[str, Any] = {
        "datalist": labelled_datalist(args.data, output_dir, args.labels),
        "section": args.section,
        "output_dir": output_dir,
        "engine": args.engine,
        **({} if args.fold is None else {"fold": args.fold}),
    }
    run_bundle(BundleRun(student, ["inference.json", "evaluate.json"], overrides))
    rows = read_metrics(output_dir / "metrics.csv")
    for name in dict.fromkeys(row["name"] for row in rows):
        means = class_means([row for row in rows if row["name"] == name])
        print(f"{name}: Dice {finite_mean(means.values()):.3f} over {len(means)} patients")
    print(f"Report: {args.output_dir / 'report.html'}")
    return 0

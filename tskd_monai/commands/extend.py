"""Adds structures to a student: its last layers get new classes and are trained on; it keeps what it knows.

tskd extend runs/liver/student mydata/datalist.json --output-dir runs/liver_spleen

DATA declares the student's structures with their values, and the new ones besides. `structures` of a case names those
that were drawn in it. Where a structure of the student was not drawn, its own prediction is the label; where a new one
was not drawn, the background may be it. Geometry and intensities stay those of the student. If interrupted, the same
command resumes.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tskd_monai.commands.bundle_command import plain_messages
from tskd_monai.commands.command_parser import LABELS_HELP, CommandParser, output_folder
from tskd_monai.commands.student_argument import add_student, student_folder


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Returns the parsed command line."""
    parser = CommandParser("extend", __doc__)
    add_student(parser)
    parser.add_argument("data", type=Path, help="datalist or folder")
    parser.add_argument("--output-dir", type=output_folder, default=Path("extended"), help="default: extended/")
    parser.add_argument("--labels", help=LABELS_HELP)
    parser.add_argument("--fold", type=int, help="fold of the datalist's cross-validation")
    parser.add_argument("--max-epochs", type=int, default=20, help="epochs of 50 steps (default: 20)")
    parser.add_argument("--learning-rate", type=float, default=0.001, help="default: 0.001")
    parser.add_argument("--seed", type=int, default=0, help="seed of training (default: 0)")
    parser.add_argument("--device", help="such as cpu or cuda:0 (default: the GPU if there is one)")
    parser.add_argument("--restart", nargs="+", default=[], metavar="STAGE", help="stages to run again after a change")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the command line, plans, trains the extended student and prints its Dice on the test section."""
    args = parse_arguments(argv)
    plain_messages()
    student = student_folder(args.student)
    from tskd_monai.bundle.stage_store import LOGS, StageStore
    from tskd_monai.commands.extension import SCORES, STUDENT, extension_stages
    from tskd_monai.files.folder_lock import hold_folder

    with hold_folder(args.output_dir):
        stages = extension_stages(args, student)
        (args.output_dir / LOGS).mkdir(exist_ok=True)
        StageStore(args.output_dir.resolve(), stages, args.restart).run()
    if stages[-1].name == SCORES:
        _print_scores(args.output_dir / SCORES)
    print(f"Student bundle: {args.output_dir / STUDENT}")
    return 0


def _print_scores(folder: Path) -> None:
    from tskd_monai.evaluation.summary import class_means, finite_mean, read_metrics

    rows = read_metrics(folder / "metrics.csv")
    for name in dict.fromkeys(row["name"] for row in rows):
        means = class_means([row for row in rows if row["name"] == name])
        print(f"{name}: Dice {finite_mean(means.values()):.3f} over {len(means)} patients")

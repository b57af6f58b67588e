"""Runs the complete method on the embedded phantom: teacher, synthesis, distillation, inference, and a report.

tskd demo --output-dir demo_output

It needs no data and no download, and takes minutes on two CPU cores. If interrupted, the same command resumes.
It prints the two commands that it stands for; commands.txt has the first, and each stage of the second.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from tskd_monai.commands.bundle_command import record_line
from tskd_monai.commands.command_parser import CommandParser, output_folder

SECTIONS = ("--training", "12", "--validation", "3", "--test", "8")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Returns the parsed command line."""
    parser = CommandParser("demo", __doc__)
    parser.add_argument(
        "--output-dir", type=output_folder, metavar="DIR", default=Path("demo_output"), help="default: demo_output/"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the patients and of training (default: 0)")
    parser.add_argument(
        "--teacher", help="foundation model, such as lite_medsam; default: the small shipped encoder, no download"
    )
    parser.add_argument("--preset", help="demo, demo_teacher (the default with --teacher), or the path of a YAML file")
    args: argparse.Namespace = parser.parse_args(argv)
    if args.preset is None:
        args.preset = "demo" if args.teacher is None else "demo_teacher"
    return args


def commands(output_dir: Path, seed: int, preset: str, teacher: str | None) -> list[list[str]]:
    """Returns the commands of the demo, after `tskd`: they write the phantom, and train on it."""
    study = output_dir.resolve() / "study"
    data = ["phantom", "--output-dir", str(study), *SECTIONS, "--seed", str(seed)]
    options = ["--output-dir", str(output_dir.resolve()), "--preset", preset, "--seed", str(seed)]
    return [
        data,
        ["train", str(study / "datalist.json"), *options, *([] if teacher is None else ["--teacher", teacher])],
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the command line, writes the phantom and trains on it."""
    args = parse_arguments(argv)
    from tskd_monai.commands import phantom
    from tskd_monai.commands.train import command as train
    from tskd_monai.commands.train.options import load_preset, parse_teacher
    from tskd_monai.networks.pretrained import weights_path

    load_preset(args.preset)  # a wrong name, and missing weights, are known before the phantom is written
    if args.teacher is not None:
        weights_path(*parse_teacher(args.teacher))
    data, training = commands(args.output_dir, args.seed, args.preset, args.teacher)
    record_line(args.output_dir, shlex.join(["tskd", *data]))
    phantom.main(data[1:])
    print(f"$ {shlex.join(['tskd', *training])}", flush=True)
    train.main(training[1:])  # it records the runner's lines
    return 0

"""Runs the complete method on the embedded phantom: teacher, synthesis, distillation, inference, and a report.

tskd demo
tskd demo my_demo --seed 1

It needs no data and no download, and takes minutes on two CPU cores. If interrupted, the same command resumes.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

SECTIONS = ("--training", "12", "--validation", "3", "--test", "8")


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the command line, writes the phantom and runs `tskd train` on it."""
    parser = argparse.ArgumentParser(
        prog="tskd demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output_dir", type=Path, nargs="?", default=Path("demo_output"), help="default: demo_output/")
    parser.add_argument("--seed", type=int, default=0, help="seed of the patients and of training")
    parser.add_argument("--preset", default="demo", help="demo, or the path of a YAML file")
    args = parser.parse_args(argv)
    from tskd_monai.commands import phantom
    from tskd_monai.commands.train import command as train

    seed = ("--seed", str(args.seed))
    study = args.output_dir / "study"
    phantom.main([str(study), *SECTIONS, *seed])
    options = ("--output-dir", str(args.output_dir), "--preset", args.preset)
    train.main([str(study / "datalist.json"), *options, *seed])
    return 0

"""Trains the teacher, the diffusion model and the student on a datalist, scores them and writes a report.

Every stage is a run of a MONAI bundle and can be repeated by hand. Interrupted at any moment, the same command resumes.
Finished stages are not run again; what was made from other settings or data is never removed.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

logger = logging.getLogger(__name__)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Returns the parsed command line."""
    parser = argparse.ArgumentParser(
        prog="tskd train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Example: tskd train --datalist my_data/datalist.json --output-dir my_run --preset small",
    )
    parser.add_argument("--datalist", type=Path, required=True, help="Decathlon-style JSON")
    parser.add_argument("--output-dir", type=Path, required=True, help="everything is written below it")
    parser.add_argument(
        "--teacher",
        default="sam_demo",
        help="encoder: its name, NAME=WEIGHTS (a file), or a hub id such as facebook/sam-vit-base",
    )
    parser.add_argument(
        "--preset", default="small", help="demo, small, full, or the path of a YAML file like presets.yaml"
    )
    parser.add_argument("--student", default="compact_unet_small", help="such as compact_unet_base or vit_tiny")
    parser.add_argument("--image-size", type=int, help="of the networks' input, instead of the preset's")
    parser.add_argument("--labelled-slices", type=int, help="number of them, instead of the preset's")
    parser.add_argument("--fold", type=int, help="fold of the datalist's cross-validation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--compare",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="also train the student from scratch and by self-training, with equal effort; default: the preset's",
    )
    parser.add_argument("--device", help="such as cpu or cuda:0; default: the GPU if there is one")
    parser.add_argument("--task", type=Path, help="a task.json to use instead of planning one from the data")
    parser.add_argument("--replan", action="store_true", help="plan the task again; the previous one is kept beside")
    parser.add_argument(
        "--restart",
        nargs="+",
        default=[],
        metavar="STAGE",
        help="stages to run again because their settings or data changed; their previous folders are kept beside",
    )
    parser.add_argument(
        "--keep", nargs="+", default=[], metavar="STAGE", help="finished stages to use as they are in spite of that"
    )
    return parser.parse_args(arguments)


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the command line and runs the pipeline."""
    args = parse_arguments(argv)
    from tskd_monai.commands.train.pipeline import run_pipeline  # torch and MONAI take seconds to import

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        run_pipeline(args)
    except (ValueError, OSError) as error:
        logger.debug("The run ended here:", exc_info=True)
        sys.exit(f"tskd train: error: {error}")

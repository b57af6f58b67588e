"""Plans a task from a datalist: writes task.json once, which every stage reads, open to editing."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the command line and writes the task."""
    parser = argparse.ArgumentParser(prog="tskd plan", description=__doc__)
    parser.add_argument("datalist", type=Path, help="Decathlon-style JSON with training, validation, test, unlabeled")
    parser.add_argument(
        "--output-dir", type=Path, help="for datalist.json and task.json (default: ./<name of the list>)"
    )
    parser.add_argument("--image-size", type=int, help="rows and columns the networks see, a multiple of 16")
    parser.add_argument("--intensity", choices=("percentile", "hu_window", "rgb"), help="default: by the modality")
    parser.add_argument("--labelled-slices", type=int, help="count only so many training slices as labelled")
    parser.add_argument("--seed", type=int, default=0, help="of the draw of labelled slices")
    parser.add_argument("--fold", type=int, help="of the datalist's cross-validation")
    parser.add_argument("--task", type=Path, help="use this task.json instead of a planned one")
    parser.add_argument("--replan", action="store_true", help="plan again; the old task.json is kept beside")
    args = parser.parse_args(argv)
    from tskd_monai.commands.task_files import plan_dataset  # MONAI takes seconds to import

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    output_dir = args.output_dir or Path(args.datalist.resolve().parent.name)
    try:
        _, path, task = plan_dataset(
            args.datalist,
            output_dir,
            args.image_size,
            args.intensity,
            args.labelled_slices,
            args.seed,
            args.fold,
            task_file=args.task,
            replan=args.replan,
        )
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    size = f"{task.pixdim[0]:.3g}"
    scale = f"{size} mm a pixel, view {task.axcodes}" if task.axcodes else f"each {size} pixels of the image wide"
    logger.info(
        "%s: %s at %dx%d, %s, %s intensities.",
        path,
        ", ".join(task.foreground.values()),
        *task.image_size,
        scale,
        task.intensity.mode,
    )

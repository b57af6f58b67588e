"""Plans a task from a dataset: writes task.json, which every stage reads and which may be edited.

tskd plan study/datalist.json --output-dir runs/study --image-size 192
tskd plan mydata/ --labels liver,spleen

DATA is a datalist, a folder with images/, labels/ and optionally unlabelled/, or a Decathlon or nnU-Net dataset.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from tskd_monai.commands.bundle_command import plain_messages
from tskd_monai.commands.command_parser import LABELS_HELP, CommandParser, output_folder

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the command line and writes the task."""
    parser = CommandParser("plan", __doc__)
    parser.add_argument("data", type=Path, help="datalist or folder")
    parser.add_argument(
        "--output-dir", type=output_folder, help="folder of datalist.json and task.json (default: runs/NAME)"
    )
    parser.add_argument("--labels", help=LABELS_HELP)
    parser.add_argument("--image-size", type=int, help="rows and columns of the network input, a multiple of 16")
    parser.add_argument(
        "--intensity", choices=("percentile", "hu_window", "rgb"), help="intensity scaling (default: by modality)"
    )
    parser.add_argument("--labelled-slices", type=int, help="number of training slices to use as labelled")
    parser.add_argument("--neighbours", type=int, help="slices on each side that the student sees too: 0 to 2")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw of labelled slices")
    parser.add_argument("--fold", type=int, help="fold of the datalist's cross-validation")
    parser.add_argument("--task", type=Path, help="use this task.json instead of a planned one")
    parser.add_argument("--replan", action="store_true", help="plan again; the previous task.json is kept")
    args = parser.parse_args(argv)
    from tskd_monai.commands.task_files import plan_dataset  # MONAI takes seconds to import
    from tskd_monai.commands.user_data import datalist_of, dataset_name

    plain_messages()
    output_dir = args.output_dir or Path("runs", dataset_name(args.data))
    _, path, task = plan_dataset(
        datalist_of(args.data, output_dir, args.labels, args.seed),
        output_dir,
        args.image_size,
        args.intensity,
        args.labelled_slices,
        args.seed,
        args.fold,
        task_file=args.task,
        replan=args.replan,
        neighbours=args.neighbours,
    )
    size = f"{task.pixdim[0]:.3g}"
    scale = f"{size} mm per pixel, orientation {task.axcodes}" if task.axcodes else f"each {size} image pixels wide"
    logger.info(
        "%s: %s at %dx%d, %s, %s intensities.",
        path,
        ", ".join(task.foreground.values()),
        *task.image_size,
        scale,
        task.intensity.mode,
    )

"""Plans a task from a datalist: writes task.json, which every stage reads, open to editing."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from tskd_monai.data.atomic import write_json
from tskd_monai.data.datalist import labelled_subset, load_datalist, restrict_labels
from tskd_monai.data.planning import plan_task, slice_counts
from tskd_monai.data.task import Task, save_task

logger = logging.getLogger("plan_task")


def plan_study(
    datalist_path: str | Path,
    output_dir: str | Path,
    image_size: int | None = None,
    intensity: str | None = None,
    labelled_slices: int | None = None,
    seed: int = 0,
    fold: int | None = None,
    datalist_dir: Path | None = None,
) -> tuple[Path, Path, Task]:
    """Writes `datalist.json` (absolute paths, checked) and `task.json` into a folder.

    Args:
        datalist_path: Decathlon-style datalist.
        output_dir: for both files.
        image_size: rows and columns that the networks see; None: planned.
        intensity: how values are scaled; None: planned.
        labelled_slices: how many training slices count as labelled; None: all of them.
        seed: of the draw of labelled slices.
        fold: of the datalist's cross-validation.
        datalist_dir: for `datalist.json`, whose paths may name patients; None: `output_dir`.

    Returns:
        The paths of both files, and the task.
    """
    datalist = load_datalist(datalist_path, fold)
    datalist.pop("folds", None)
    if labelled_slices is not None:
        # Which axis is the slices' does not depend on the labels that are about to be left out.
        geometry = plan_task(datalist, image_size, intensity)
        counts = slice_counts(datalist["training"], geometry)
        datalist = restrict_labels(datalist, labelled_subset(counts, labelled_slices, seed))
    task = plan_task(datalist, image_size, intensity)
    output_dir = Path(output_dir)
    written = (datalist_dir or output_dir) / "datalist.json"
    write_json(written, datalist)
    save_task(task, output_dir / "task.json")
    return written, output_dir / "task.json", task


def main() -> None:
    """Reads the command line and writes the task."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("datalist", type=Path, help="Decathlon-style JSON with training, validation, test, unlabeled")
    parser.add_argument(
        "--output-dir", type=Path, help="for datalist.json and task.json (default: ./<name of the list>)"
    )
    parser.add_argument("--image-size", type=int, help="rows and columns the networks see, a multiple of 16")
    parser.add_argument("--intensity", choices=("percentile", "hu_window", "rgb"), help="default: by the modality")
    parser.add_argument("--labelled-slices", type=int, help="count only so many training slices as labelled")
    parser.add_argument("--seed", type=int, default=0, help="of the draw of labelled slices")
    parser.add_argument("--fold", type=int, help="of the datalist's cross-validation")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    output_dir = args.output_dir or Path(args.datalist.resolve().parent.name)
    try:
        _, path, task = plan_study(
            args.datalist, output_dir, args.image_size, args.intensity, args.labelled_slices, args.seed, args.fold
        )
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    logger.info(
        "%s: %s at %dx%d, %.3g mm a pixel, view %s, %s intensities.",
        path,
        ", ".join(task.foreground.values()),
        *task.image_size,
        task.pixdim[0],
        task.axcodes,
        task.intensity.mode,
    )


if __name__ == "__main__":
    main()

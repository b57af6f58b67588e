"""Compares two ways of upsampling from the network's resolution to the scan's: Dice, HD95 and time on `validation`.

nearest: the class of the network's nearest pixel; linear: the class of the largest interpolated logit. Each without and
with only the largest component of each organ, since distant specks dominate HD95 otherwise.

python scripts/benchmark/upsampling.py study/student study/datalist.json
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from monai.data import DataLoader, Dataset

from tskd_monai.data.datalist import load_section
from tskd_monai.evaluation.label_maps import load_label_map
from tskd_monai.evaluation.metrics import case_metrics
from tskd_monai.inference.export import load_student
from tskd_monai.inference.label_map_inferer import UPSAMPLING, LabelMapInferer
from tskd_monai.inference.outputs import postprocessing
from tskd_monai.transforms.pipelines import preprocessing


@torch.no_grad()
def measure(bundle: Path, datalist: Path, fold: int | None) -> list[dict[str, Any]]:
    """Returns one row per variant: mean Dice and HD95 (mm) over cases and organs, and mean seconds per case."""
    network, task = load_student(bundle)
    kept = replace(task, keep_largest_component=task.label_values[1:])
    rows: dict[tuple[str, bool], list[dict[str, Any]]] = {}
    seconds: dict[str, list[float]] = {name: [] for name in UPSAMPLING}
    for entry in load_section(datalist, "validation", fold):
        batch = next(iter(DataLoader(Dataset([{"image": entry["image"]}], preprocessing(task)), batch_size=1)))
        label = load_label_map(Path(entry["label"]))
        for name in UPSAMPLING:
            started = time.process_time()
            label_map = LabelMapInferer(task, upsampling=name)(batch["image"], network)[0]
            seconds[name].append(time.process_time() - started)
            for largest, post in ((False, postprocessing(task)), (True, postprocessing(kept))):
                found = np.asarray(post({"pred": label_map})["pred"])[0]
                rows.setdefault((name, largest), []).extend(
                    case_metrics(found, label.array, label.spacing, task.foreground)
                )
    return [
        {
            "upsampling": name,
            "largest_component": largest,
            "dice": float(np.nanmean([row["dice"] for row in of_one])),
            "hd95_mm": float(np.nanmean([row["hd95_mm"] for row in of_one])),
            "cpu_seconds": fmean(seconds[name]),
        }
        for (name, largest), of_one in sorted(rows.items())
    ]


def main() -> None:
    """Reads the command line and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("datalist", type=Path)
    parser.add_argument("--fold", type=int)
    args = parser.parse_args()
    sys.stdout.write(
        "| upsampling | only the largest component | Dice | HD95, mm | CPU s a case |\n|---|---|---|---|---|\n"
    )
    for row in measure(args.bundle, args.datalist, args.fold):
        sys.stdout.write(
            f"| {row['upsampling']} | {'yes' if row['largest_component'] else 'no'} | {row['dice']:.4f} | "
            f"{row['hd95_mm']:.2f} | {row['cpu_seconds']:.2f} |\n"
        )


if __name__ == "__main__":
    main()

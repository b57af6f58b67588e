"""Prints the Dice of the labels themselves after downsampling to a network's resolution and upsampling again.

No mask at that resolution can represent structures thinner than its pixels.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor
from torch.nn import functional as F

from tskd_monai.data.datalist import load_datalist
from tskd_monai.evaluation.label_maps import load_label_map


def ceiling(mask: Tensor, side: int) -> float:
    """Returns the Dice of a binary mask (1, 1, H, W) with itself on a grid of `side` pixels along the longer side."""
    height, width = mask.shape[-2:]
    size = [round(length * side / max(height, width)) for length in (height, width)]
    coarse = F.interpolate(mask, size, mode="area")
    again = (F.interpolate(coarse, (height, width), mode="bilinear") > 0.5).float()
    return float(2 * (again * mask).sum() / (again.sum() + mask.sum()))


def main() -> None:
    """Reads the command line and prints a line per resolution."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", help="folder in TSKD_REAL_DATA of a dataset with one label")
    parser.add_argument("--image-size", type=int, default=256, help="pixels of the network along a side")
    args = parser.parse_args()
    datalist = load_datalist(Path(os.environ["TSKD_REAL_DATA"]) / args.dataset / "datalist.json")
    entries = [entry for section in ("training", "validation", "test") for entry in datalist[section]]
    maps = [load_label_map(Path(entry["label"])).array for entry in entries]
    masks = [torch.from_numpy((array > 0).reshape(1, 1, *array.shape[:2])).float() for array in maps]
    for divisor in (1, 4):
        mean = fmean(ceiling(mask, args.image_size // divisor) for mask in masks)
        sys.stdout.write(f"{args.image_size // divisor} px: mean Dice {mean:.3f} of {len(masks)} labels\n")


if __name__ == "__main__":
    main()

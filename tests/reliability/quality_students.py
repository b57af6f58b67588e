"""Students on which the quality of cases is measured: trained from labels alone, over folds and seeds.

python -m tests.reliability.quality_students chaos_t2spir WORK --folds 0,1,2,3,4 --seeds 0,1 --steps 400
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch

from tests.support.paths import BUNDLES
from tskd_monai.bundle.run import BundleRun
from tskd_monai.bundle.student import write_student_bundle
from tskd_monai.commands.task_files import plan_dataset
from tskd_monai.data.task import Task
from tskd_monai.files.json_files import read_json
from tskd_monai.networks.students import build_student

STUDENT = "compact_unet_small"
IMAGE_SIZES = {"chaos_t2spir": 128, "ph2": 128, "hc18": 128, "msd_hippocampus": 64}
EPOCH_LENGTH = 50


def data_folder(dataset: str) -> Path:
    """Returns the folder of a dataset in `TSKD_REAL_DATA`."""
    return Path(os.environ["TSKD_REAL_DATA"]).resolve() / dataset


def student_folder(work: Path, dataset: str, fold: int, seed: int) -> Path:
    """Returns the folder of a student."""
    return work / dataset / f"fold{fold}" / f"seed{seed}"


def planned(dataset: str, work: Path, fold: int) -> tuple[Path, Task]:
    """Returns the datalist of a fold and its task; fold 0 of a dataset without folds is its only split."""
    source = data_folder(dataset) / "datalist.json"
    has_folds = "folds" in read_json(source)
    folder = work / dataset / f"fold{fold}"
    datalist, _, task = plan_dataset(source, folder, IMAGE_SIZES[dataset], fold=fold if has_folds else None)
    return datalist, task


def numbers(text: str) -> list[int]:
    """Returns the numbers in an option such as `0,1,2`."""
    return [int(number) for number in text.split(",")]


def train_student(dataset: str, work: Path, fold: int, seed: int, steps: int) -> None:
    """Trains a student on the training patients of a fold, unless it is there; validation chooses its weights."""
    folder = student_folder(work, dataset, fold, seed)
    if (folder / "models" / "history.jsonl").is_file():
        return
    datalist, task = planned(dataset, work, fold)
    torch.manual_seed(seed)
    network = build_student(STUDENT, task.channels, task.num_classes, task.image_size)
    write_student_bundle(BUNDLES / "segmentation", folder, task, STUDENT, network.state_dict())
    epochs = steps // EPOCH_LENGTH
    settings = {"learning_rate": 0.002, "epoch_length": EPOCH_LENGTH, "max_epochs": epochs, "val_interval": epochs}
    run = BundleRun(
        folder,
        ["train.json"],
        {"datalist": datalist, "output_dir": folder / "models", "seed": seed, "device": "cpu", **settings},
    )
    run.run(log=folder / "train.log")


def main() -> None:
    """Reads the command line and trains the students that are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=tuple(IMAGE_SIZES))
    parser.add_argument("work", type=Path, help="folder of the students")
    parser.add_argument("--folds", type=numbers, default=[0])
    parser.add_argument("--seeds", type=numbers, default=[0])
    parser.add_argument("--steps", type=int, default=400)
    args = parser.parse_args()
    for seed in args.seeds:
        for fold in args.folds:
            train_student(args.dataset, args.work.resolve(), fold, seed, args.steps)


if __name__ == "__main__":
    main()

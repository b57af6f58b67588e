"""Trains the student shipped as bundles/segmentation, on the training and validation patients of a datalist.

Run it after all choices have been made: no section is left for model selection, so each stage keeps its last weights.
The test section is segmented and scored at the end. With --install, weights and task are copied to
bundles/segmentation.
"""

from __future__ import annotations

import argparse
import logging
import shutil
from functools import partial
from pathlib import Path
from typing import Any

from tskd_monai.bundle.stage_store import Stage, StageStore
from tskd_monai.commands.task_files import plan_dataset
from tskd_monai.commands.train.stages import STUDENT_RESULTS, TEACHER_RESULTS, PlannedDataset, read_dataset
from tskd_monai.data.datalist import load_datalist
from tskd_monai.files.atomic import atomic_path
from tskd_monai.files.checksum import ContentHashes, file_sha256
from tskd_monai.files.json_files import write_json
from tskd_monai.files.private_files import private_file
from tskd_monai.files.shipped import BUNDLES

logger = logging.getLogger("train_shipped_student")
TEACHER_EPOCHS, STUDENT_EPOCHS, EPOCH_LENGTH = 12, 30, 100
# Validates on the training images, only after the last epoch: it selects nothing.
LAST_WEIGHTS = {"validate#dataset#data#section": "training", "epoch_length": EPOCH_LENGTH, "precision": "bfloat16"}
INSTALLED = ("models/model.pt", "configs/task.json")


def merged_datalist(path: Path) -> dict[str, Any]:
    """Returns a datalist whose training section also contains its validation section."""
    datalist = load_datalist(path)
    sections = {"training": datalist["training"] + datalist["validation"], "validation": []}
    return {key: value for key, value in {**datalist, **sections}.items() if key not in ("folds", "folder")}


def stages(folder: Path, dataset: PlannedDataset, encoder: str, encoder_weights: Path) -> list[Stage]:
    """Returns the stages that train the teacher and the student, and score both on the test section."""
    settings = {"seed": 0, **LAST_WEIGHTS}
    paths = {"datalist": dataset.datalist, "task": dataset.task_file}
    weights = {"encoder": {"weights": file_sha256(encoder_weights)}}
    learned = dataset.inputs("training labels")
    scored: dict[str, Any] = {
        "settings": {"section": "test"}, "inputs": {"data": {"test labels": dataset.digests["test labels"]}},
        "results": ("metrics.csv",)
    }  # fmt: skip
    return [
        Stage(
            "teacher", f"Teacher: {encoder} with LoRA", BUNDLES / "teacher_lora", ["train.yaml"],
            {**settings, "encoder": encoder, "batch_size": 4, "max_epochs": TEACHER_EPOCHS,
             "val_interval": TEACHER_EPOCHS},
            partial(dict, paths, encoder_weights=encoder_weights), {**learned, **weights}, results=TEACHER_RESULTS,
        ),
        Stage(
            "student", "Distillation", BUNDLES / "distillation", ["train.yaml"],
            {**settings, "max_epochs": STUDENT_EPOCHS, "val_interval": STUDENT_EPOCHS},
            partial(dict, paths, teacher_dir=folder / "teacher"), learned, ["teacher"], results=STUDENT_RESULTS,
        ),
        Stage(
            "predictions_teacher", "Test: teacher", BUNDLES / "teacher_lora", ["inference.yaml", "evaluate.yaml"],
            paths=partial(dict, paths, task=folder / "teacher" / "task.json", teacher_dir=folder / "teacher"),
            needs=["teacher"], **scored,
        ),
        Stage(
            "predictions", "Test: student", folder / "student", ["inference.json", "evaluate.json"],
            paths=partial(dict, datalist=dataset.datalist), needs=["student"], **scored,
        ),
    ]  # fmt: skip


def install(student: Path) -> None:
    """Copies the weights and the task of a student bundle into bundles/segmentation."""
    for name in INSTALLED:
        with atomic_path(BUNDLES / "segmentation" / name) as temporary:
            shutil.copyfile(student / name, temporary)


def main() -> None:
    """Reads the command line and trains."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datalist", type=Path, required=True, help="datalist of CHAOS T2-SPIR with three sections")
    parser.add_argument("--encoder", default="vit_tiny_patch16")
    parser.add_argument("--encoder-weights", type=Path, required=True, help="file of the encoder's weights")
    parser.add_argument("--image-size", type=int, default=192, help="rows and columns of the network input")
    parser.add_argument("--output-dir", type=Path, required=True, help="folder of all outputs")
    parser.add_argument("--install", action="store_true", help="copy the student to bundles/segmentation")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    folder = args.output_dir.resolve()
    write_json(folder / "source.json", merged_datalist(args.datalist))
    datalist, task_file, task = plan_dataset(folder / "source.json", folder, args.image_size)
    dataset = read_dataset(datalist, task_file, task, ContentHashes(private_file(folder, "content_hashes.json")))
    store = StageStore(folder, stages(folder, dataset, args.encoder, args.encoder_weights.resolve()))
    store.run()
    if args.install:
        install(store.folder("student"))
    logger.info("Test scores: %s", store.folder("predictions") / "metrics.json")


if __name__ == "__main__":
    main()

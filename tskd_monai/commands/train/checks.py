"""Checks, before the first stage, of what would otherwise stop a pipeline after hours."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tskd_monai.commands.command_parser import nearest
from tskd_monai.commands.train.stages import PlannedDataset
from tskd_monai.data.task import Task
from tskd_monai.files.atomic import require_writable
from tskd_monai.networks.encoder_records import encoder_record

logger = logging.getLogger(__name__)

GB = 1e9
RESERVED_BYTES = 0.5 * GB
"""For checkpoints, predictions and the report."""

FEATURE_BYTES = 2
"""Size of a value of cached teacher features, float16."""

COMPRESSED = 0.5
"""Upper bound on the compressed fraction of cached targets (measured on the embedded dataset: a third)."""


def check_device(device: str | None) -> None:
    """Raises ValueError when a device is not one of this machine's."""
    if device is None:
        return
    try:
        found = torch.device(device)
        available = found.type != "cuda" or (found.index or 0) < torch.cuda.device_count()
    except RuntimeError:
        available = False
    if not available:
        gpus = torch.cuda.device_count()
        raise ValueError(f"Expected --device cpu or one of {gpus} GPUs such as cuda:0, found {device}.")


def check_sections(datalist: Mapping[str, Any], path: Path, scored: bool = True) -> None:
    """Raises ValueError when a section that a later stage reads is empty; `test` is read where models are scored."""
    for section, purpose in (
        ("training", "teacher and student are trained on it"),
        ("validation", "every choice is made on it"),
        ("test", "the report is about it; --no-test trains without"),
    ):
        if not datalist[section] and (scored or section != "test"):
            raise ValueError(f"Expected cases in `{section}` of {path}, found none; {purpose}. Add at least one.")


def check_student_name(student: str) -> None:
    """Raises ValueError when there is no student of that name."""
    from tskd_monai.networks.students import STUDENTS  # MONAI's networks take seconds to import

    if student not in STUDENTS:
        raise ValueError(
            f"Expected --student with one of {', '.join(sorted(STUDENTS))}, found {student}"
            f"{nearest(student, STUDENTS) or '.'}"
        )


def check_student(student: str, task: Task) -> None:
    """Raises ValueError when a student cannot take the task's images."""
    from tskd_monai.networks.students import build_student  # MONAI's networks take seconds to import

    build_student(student, task.student_channels, task.num_classes, task.image_size)


def check_room(output_dir: Path, dataset: PlannedDataset, encoder: str, synthetic: int) -> None:
    """Checks the output folder and the free space of its disk.

    Args:
        output_dir: folder of the pipeline.
        dataset: with its task and its number of slices.
        encoder: name of the teacher's encoder, whose features are cached.
        synthetic: number of images to sample.

    Raises:
        OSError: if nothing can be written to the folder.
        ValueError: if the disk clearly has too little room for the cached targets and the other outputs.
    """
    require_writable(output_dir)
    images = dataset.slices + synthetic
    pixels = dataset.task.image_size[0] * dataset.task.image_size[1]
    targets = images * pixels * (dataset.task.num_classes - 1 + _feature_bytes(encoder)) * COMPRESSED
    needed, free = targets + RESERVED_BYTES, shutil.disk_usage(output_dir).free
    if needed > free:
        raise ValueError(
            f"Expected about {needed / GB:.1f} GB of free disk for {images} images, found {free / GB:.1f} GB at "
            "--output-dir; free some, choose another disk or a smaller --image-size."
        )


def _feature_bytes(encoder: str) -> float:
    """Returns the size of an encoder's image embeddings in bytes per pixel of the image: 2 for SAM."""
    record = encoder_record(encoder)
    with torch.device("meta"):
        built = record.architecture.build(record.image_size, record.mean, record.std)
    return FEATURE_BYTES * built.embed_dim / built.embed_stride**2

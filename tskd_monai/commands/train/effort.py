"""The length of training from scratch: as many multiply-adds as distillation and fine-tuning together.

Operations are counted, not timed, so the result does not depend on the machine or its load.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tskd_monai.commands.train.options import stage_options
from tskd_monai.data.task import Task
from tskd_monai.networks.cost import multiply_adds
from tskd_monai.networks.features import FeatureProjection
from tskd_monai.networks.pretrained import RANDOM
from tskd_monai.networks.students import build_student, student_size
from tskd_monai.networks.teacher_builder import build_teacher

DECODER_OPTIONS = ("decoder", "refine")


def scratch_epochs(preset: Mapping[str, Any], task: Task, encoder: str, student: str, images: int) -> int:
    """Returns the epochs from scratch that match the multiply-adds of distillation and fine-tuning, rounded up.

    A step counts forward and backward; the teacher, which predicts each image once, counts forward only.

    Args:
        preset: overrides of each stage.
        task: task with labels and image size.
        encoder: name of the teacher's encoder.
        student: name for `build_student`.
        images: number of real slices and synthetic images with cached targets, times that of teachers.
    """
    shape = (1, task.student_channels, *task.image_size)
    network = build_student(student, task.student_channels, task.num_classes, task.image_size)
    decoder = {name: value for name, value in preset["teacher"].items() if name in DECODER_OPTIONS}
    teacher = build_teacher(
        encoder=encoder, encoder_weights=RANDOM, image_size=task.image_size, num_classes=task.num_classes,
        tuning="decoder", **decoder,
    )  # fmt: skip
    seen = (1, task.channels, *task.image_size)
    size = student_size(student)
    projected = FeatureProjection(network, size.feature_layer, size.feature_channels, teacher.embed_dim)
    distillation = images_seen(preset, "distillation") * multiply_adds(projected, shape, backward=True)
    image = multiply_adds(network, shape, backward=True)
    tuning = images_seen(preset, "fine_tuning") * image
    epoch = images_seen(preset, "scratch", epochs=1) * image
    return math.ceil((distillation + tuning + images * multiply_adds(teacher, seen)) / epoch)


def images_seen(preset: Mapping[str, Any], stage: str, epochs: int | None = None) -> int:
    """Returns how many images a stage's training run processes.

    Args:
        preset: overrides of each stage.
        stage: a training stage of the preset.
        epochs: length of the run; None: as in the preset or the config.
    """
    options = stage_options(preset, stage)
    return int(options["batch_size"] * options["epoch_length"] * (epochs or options["max_epochs"]))

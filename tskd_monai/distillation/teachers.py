"""Teachers: a tuned foundation model or a student bundle, loaded from its folder, or a published encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from tskd_monai.bundle.student import start_from
from tskd_monai.data.task import Task, load_task
from tskd_monai.distillation.targets_folder import StoredTargets
from tskd_monai.files.json_files import check_fields, read_json
from tskd_monai.networks.encoders import ImageEncoder
from tskd_monai.networks.pretrained import build_encoder
from tskd_monai.networks.students import build_student, student_size
from tskd_monai.networks.teacher import SegmentationNetworkTeacher, VfmSegmenter
from tskd_monai.networks.teacher_folder import load_teacher

STUDENT_CONFIG = Path("configs") / "inference.json"
TASK_FILE = Path("configs") / "task.json"


def load_any_teacher(
    folder: str | Path, task: Task, encoder_weights: str | Path | None = None
) -> VfmSegmenter | SegmentationNetworkTeacher:
    """Loads a teacher, frozen and in evaluation mode.

    Args:
        folder: teacher folder of `teacher_lora`, or a student bundle, for a network without a foundation model.
        task: task; a teacher of another task is refused, and a student bundle of other neighbours, unless of none.
        encoder_weights: current path of the foundation model's weights, if they have moved.

    Raises:
        FileNotFoundError: if the folder or one of its files is missing.
        ValueError: if it was made for another task, or a file differs from its record.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"Expected the teacher's folder at --teacher_dir {folder}, found none; train one with teacher_lora first."
        )
    if not (folder / STUDENT_CONFIG).is_file():
        return load_teacher(folder, encoder_weights, task_hash=task.hash)
    config = read_json(folder / STUDENT_CONFIG)
    check_fields(config, {"student": (str,)}, str(folder / STUDENT_CONFIG), "distil the student again")
    name = config["student"]
    if not load_task(folder / TASK_FILE).neighbours:
        task = replace(task, neighbours=0)  # a student of neighbours learns from a 2D teacher
    network = start_from(build_student(name, task.student_channels, task.num_classes, task.image_size), folder, task)
    size = student_size(name)
    teacher = SegmentationNetworkTeacher(network, size.feature_layer, size.feature_channels, task.neighbours)
    return teacher.requires_grad_(False).eval()


def teacher_or_targets(
    folder: str | Path,
    task: Task,
    encoder_weights: str | Path | None = None,
    targets: str | Path | None = None,
    feature_weight: float = 0.0,
) -> VfmSegmenter | SegmentationNetworkTeacher | StoredTargets:
    """Returns what a student learns from: a targets folder if one is given, else a teacher.

    Args:
        folder: see `load_any_teacher`; not read with a targets folder.
        task: task; a teacher or targets of another task are refused.
        encoder_weights: see `load_any_teacher`.
        targets: folder of `targets.yaml`; None: the teacher.
        feature_weight: weight of the features in the loss.

    Raises:
        FileNotFoundError: if the folder or one of its files is missing.
        ValueError: if it was made for another task, or the targets have no features that the loss needs.
    """
    if targets is None:
        return load_any_teacher(folder, task, encoder_weights)
    stored = StoredTargets(targets, task)
    if feature_weight and not stored.has_features:
        raise ValueError(
            f"Expected features in the targets at --targets {targets}, since --feature_weight is {feature_weight:g}, "
            "found none, as no teacher made them; give --feature_weight 0."
        )
    return stored


class TaskAgnosticTeacher(nn.Module):
    """A published encoder as a `TeacherNetwork` that returns only features.

    Args:
        encoder: maps images in [0, 1] to an ``EncoderOutput``.
    """

    def __init__(self, encoder: ImageEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.embed_dim = int(encoder.embed_dim)

    def forward_with_embeddings(self, images: Tensor) -> tuple[None, Tensor]:
        """Returns None for the logits, and the image embeddings (B, embed_dim, H / 16, W / 16) of images in [0, 1]."""
        return None, self.encoder(images).image_embeddings


def task_agnostic_teacher(
    encoder: str, encoder_weights: str | Path | None, image_size: int | Sequence[int]
) -> TaskAgnosticTeacher:
    """Returns a published encoder at the image size of a task, frozen and in evaluation mode.

    Args:
        encoder: name of its record.
        encoder_weights: file, Hugging Face folder or hub id; None: the shipped file.
        image_size: side or (H, W) in pixels.

    Raises:
        ValueError: when the name is unknown or the weights do not fit.
        FileNotFoundError: when the weights are missing.
    """
    teacher = TaskAgnosticTeacher(build_encoder(encoder, encoder_weights, image_size))
    teacher.requires_grad_(False)
    return teacher.eval()

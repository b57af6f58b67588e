"""What a dry run of a distillation needs beyond that of a training: the transfer set and the teacher's answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from tskd_monai.data.datalist import transfer_images
from tskd_monai.data.slices import read_prepared_image
from tskd_monai.data.task import Task
from tskd_monai.data.transfer_set import load_transfer_set
from tskd_monai.distillation.target_cache import quantise
from tskd_monai.distillation.teacher_targets import frozen
from tskd_monai.networks.teacher import TeacherNetwork
from tskd_monai.training.case_survey import CaseSurvey, Preprocessing, collate, noise_slices, survey_cases


def survey_transfer_images(
    datalist: str | Path,
    task: Task,
    preprocessing: Preprocessing,
    transfer_set: str | Path | None = None,
    fold: int | None = None,
) -> dict[str, CaseSurvey]:
    """Returns what `transfer_dataset` would hold: the images of `training`, unlabelled ones too, and of `synthetic`.

    Args:
        datalist: of the study.
        task: of the study; a transfer set of another is refused.
        preprocessing: of a volume's `image`.
        transfer_set: folder with `transfer_set.json`; None: real images alone.
        fold: of the datalist.
    """
    surveys = {"training": survey_cases(transfer_images(datalist, fold), preprocessing, task)}
    if transfer_set is not None:
        surveys["synthetic"] = survey_cases(load_transfer_set(transfer_set, task.hash), read_prepared_image, task)
    return surveys


def answered_noise(
    task: Task,
    batch_size: int,
    augmentation: Callable[[Any], Any],
    teacher: TeacherNetwork | None,
    device: torch.device | str,
) -> dict[str, Any]:
    """Returns a batch of images of noise as `AnsweredDataset` gives them, with the teacher's answers.

    Args:
        task: of the study.
        batch_size: of the training.
        augmentation: of a slice's `image`, and of `coordinates` where answers are cached.
        teacher: on the device; None: no answers, as in pre-training without a teacher.
        device: of the teacher.
    """
    items = noise_slices(task, batch_size)
    if teacher is None:
        return collate(items, augmentation)
    images = torch.stack([item["image"] for item in items]).to(device)
    with torch.no_grad():
        answers = quantise(*frozen(teacher).forward_with_embeddings(images))
    batch = collate(items, augmentation)
    batch["foreground"] = torch.stack([answer.foreground for answer in answers])
    batch["features"] = torch.stack([answer.features for answer in answers])
    return batch


def answer_bytes(batch: Mapping[str, Any], surveys: Mapping[str, CaseSurvey]) -> int:
    """Returns what the teacher's answers to all images take in memory; on disk they are compressed and take less.

    Args:
        batch: from `answered_noise`.
        surveys: of the images.
    """
    each = sum(batch[key][0].nbytes for key in ("foreground", "features") if key in batch)
    return each * sum(survey.slices for survey in surveys.values())

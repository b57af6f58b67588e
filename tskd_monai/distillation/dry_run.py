"""Dry run of a distillation: a survey of the transfer set, and teacher targets for noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from tskd_monai.data.datalist import transfer_images
from tskd_monai.data.neighbours import centre_slice
from tskd_monai.data.slices import read_prepared_image
from tskd_monai.data.task import Task
from tskd_monai.data.transfer_set import load_used_images
from tskd_monai.distillation.target_cache import quantise
from tskd_monai.distillation.targets_folder import StoredTargets
from tskd_monai.distillation.teacher_targets import frozen, takes_neighbours
from tskd_monai.networks.teacher import TeacherNetwork
from tskd_monai.training.case_survey import CaseSurvey, Preprocessing, collate, noise_slices, survey_cases


def survey_transfer_images(
    datalist: str | Path,
    task: Task,
    preprocessing: Preprocessing,
    transfer_set: str | Path | None = None,
    fold: int | None = None,
) -> dict[str, CaseSurvey]:
    """Returns what `transfer_dataset` would hold: `training` images, unlabelled ones included, and `synthetic` ones.

    Args:
        datalist: path of the dataset's `datalist.json`.
        task: task; a transfer set of another task is refused.
        preprocessing: transform of a volume's `image`.
        transfer_set: folder with `transfer_set.json`; None: only real images.
        fold: fold of the datalist.
    """
    surveys = {"training": survey_cases(transfer_images(datalist, fold), preprocessing, task)}
    if synthetic := load_used_images(transfer_set, task.hash):
        surveys["synthetic"] = survey_cases(synthetic, read_prepared_image, task)
    return surveys


def noise_with_targets(
    task: Task,
    batch_size: int,
    augmentation: Callable[[Any], Any],
    teacher: TeacherNetwork | StoredTargets | None,
    device: torch.device | str,
) -> dict[str, Any]:
    """Returns a batch of noise images as `CachedTargetDataset` returns images, with the teacher's targets.

    Args:
        task: task with channels and image size.
        batch_size: images in the batch.
        augmentation: transform of a slice's `image`, and of `coordinates` if targets are cached.
        teacher: teacher on `device`, or a targets folder, of which one target serves all; None: no targets, as in
            pre-training without a teacher.
        device: device of the teacher.
    """
    items = noise_slices(task, batch_size, task.neighbours)
    if teacher is None:
        return collate(items, augmentation)
    if isinstance(teacher, StoredTargets):
        targets = [teacher.any_target()] * batch_size
    else:
        images = torch.stack([item["image"] for item in items]).to(device)
        images = images if takes_neighbours(teacher) else centre_slice(images, task.channels)
        with torch.no_grad():
            targets = quantise(*frozen(teacher).forward_with_embeddings(images))
    batch = collate(items, augmentation)
    batch["foreground"] = torch.stack([target.foreground for target in targets])
    batch["features"] = torch.stack([target.features for target in targets])
    return batch


def target_bytes(batch: Mapping[str, Any], surveys: Mapping[str, CaseSurvey]) -> int:
    """Returns the bytes that the teacher targets of all images take in memory; on disk they are compressed.

    Args:
        batch: batch from `noise_with_targets`.
        surveys: surveys of the images.
    """
    each = sum(batch[key][0].nbytes for key in ("foreground", "features") if key in batch)
    return each * sum(survey.slices for survey in surveys.values())

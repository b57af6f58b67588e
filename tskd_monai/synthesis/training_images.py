"""The study's training images as a diffusion model sees them, and the label maps it may be asked to fill."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusers import UNet2DModel

from tskd_monai.data.datalist import load_section, transfer_images
from tskd_monai.data.slices import SliceDataset
from tskd_monai.data.task import Task
from tskd_monai.synthesis.conditions import ConditionSource, LabelMaps, SlicePositions, Unconditional
from tskd_monai.synthesis.diffusion import CONDITIONS, condition_of
from tskd_monai.transforms.random_affine import RandomAffined


def diffusion_entries(
    path: str | Path | None, condition: str = "none", fold: int | None = None
) -> list[dict[str, Any]]:
    """Returns the images to train on: training and unlabelled ones, or with label maps the labelled training ones.

    Args:
        path: of the datalist.
        condition: that the model is trained for.
        fold: of the datalist's cross-validation.

    Raises:
        ValueError: when there are none, besides the errors of `load_datalist`.
    """
    entries = load_section(path, "training", fold) if condition == "label_map" else transfer_images(path, fold)
    if not entries:
        raise ValueError(f"{path}: expected entries in `training` or `unlabeled`, found none.")
    return entries


def diffusion_keys(condition: str = "none") -> list[str]:
    """Returns the keys of an entry that training reads.

    Raises:
        ValueError: for an unknown condition.
    """
    if condition not in CONDITIONS:
        raise ValueError(f"Expected --condition to be one of {CONDITIONS}, found {condition!r}.")
    return ["image", "label"] if condition == "label_map" else ["image"]


def random_affine(keys: Sequence[str], strength: float = 1.0) -> RandomAffined | None:
    """Returns the random transform of a training slice: rotation, scaling and shift, grey values as they are.

    A model that sees few images many times memorises them; moved a little, they are never twice the same.

    Args:
        keys: `image`, or `image` and `label`, which move together.
        strength: of `RandomAffined`; at 0 there is no transform.

    Raises:
        ValueError: for a strength below 0.
    """
    if strength < 0:
        raise ValueError(f"Expected --augmentation of at least 0, found {strength}.")
    if strength == 0:
        return None
    return RandomAffined(keys, strength=strength)


def sampling_conditions(
    unet: UNet2DModel,
    task: Task,
    datalist: str | Path | None,
    preprocessing: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    fold: int | None = None,
) -> ConditionSource:
    """Returns what the images of a transfer set are conditioned on: what the U-Net was trained with.

    Args:
        unet: from `build_unet`.
        task: of the study.
        datalist: whose labelled training slices, moved at random, are filled; read only by a model of label maps.
        preprocessing: of images and label maps.
        fold: of the datalist's cross-validation.

    Raises:
        ValueError: when label maps are wanted and there is no datalist.
    """
    condition = condition_of(unet)
    if condition == "none":
        return Unconditional()
    if condition == "slice_position":
        return SlicePositions()
    if datalist is None:
        raise ValueError("Expected --datalist, whose label maps this diffusion model fills, found none; give it.")
    entries = diffusion_entries(datalist, condition, fold)
    moved = random_affine(["label"])
    return LabelMaps(SliceDataset(entries, preprocessing, moved, keys=["label"]), task.num_classes)

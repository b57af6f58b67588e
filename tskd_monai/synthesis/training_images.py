"""Training images and label maps of the diffusion model."""

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
    """Returns the entries to train on: training and unlabelled ones; with label maps, the labelled training ones.

    Args:
        path: path of the datalist.
        condition: condition of the model.
        fold: fold of the datalist's cross-validation.

    Raises:
        ValueError: when there are no entries; see also `load_datalist`.
    """
    entries = load_section(path, "training", fold) if condition == "label_map" else transfer_images(path, fold)
    if not entries:
        raise ValueError(f"{path}: expected entries in `training` or `unlabeled`, found none.")
    return entries


def diffusion_keys(condition: str = "none") -> list[str]:
    """Returns the keys of an entry that training uses.

    Raises:
        ValueError: when the condition is unknown.
    """
    if condition not in CONDITIONS:
        raise ValueError(f"Expected --condition to be one of {CONDITIONS}, found {condition!r}.")
    return ["image", "label"] if condition == "label_map" else ["image"]


def random_affine(keys: Sequence[str], strength: float = 1.0) -> RandomAffined | None:
    """Returns the random transform of a training slice: rotation, scaling and translation; intensities are unchanged.

    A model that sees few images many times memorises them; small random transforms make each image different.

    Args:
        keys: `image`, or `image` and `label`, which are transformed together.
        strength: strength of `RandomAffined`; 0: no transform.

    Raises:
        ValueError: when the strength is negative.
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
    """Returns the source of conditions for a transfer set, the kind that the U-Net was trained with.

    Args:
        unet: U-Net from `build_unet`.
        task: task of the model.
        datalist: datalist with the labelled training slices; used only by a label map model.
        preprocessing: transform of images and label maps.
        fold: fold of the datalist's cross-validation.

    Raises:
        ValueError: when a label map model is given no datalist.
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

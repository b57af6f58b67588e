"""The transforms between files and the network, in their order: one function for each pipeline.

`preprocessing` is the same for training and inference, so the network sees the same values in both; training adds a
fixed size and `augmentation`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    Orientationd,
    RandAdjustContrastd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    Randomizable,
    RandScaleCropd,
    RandScaleIntensityd,
    Resized,
    ResizeWithPadOrCropd,
    Transform,
)

from tskd_monai.data.fitness import CheckImageFitsTaskd, CompareWithTrainingd, NameOutputd
from tskd_monai.data.labels import CheckLabelMatchesImaged, EncodeLabelsd
from tskd_monai.data.task import Task
from tskd_monai.data.volume_reader import load_image_transform, load_label_transform
from tskd_monai.transforms.coordinates import AddCoordinatesd
from tskd_monai.transforms.intensity import ScaleToUnitRanged
from tskd_monai.transforms.plain_compose import PlainCompose
from tskd_monai.transforms.random_affine import INTERPOLATION, RandomAffined
from tskd_monai.transforms.slice_spacing import SliceSpacingd

AXIS_LABELS = (("L", "R"), ("P", "A"), ("I", "S"))


def preprocessing(
    task: Task, keys: Sequence[str] = ("image",), series_uid: str | None = None, irregular: str = "refuse"
) -> Compose:
    """Returns the transform from files to arrays `(C, H, W, D)` at the task's orientation, spacing and intensity.

    Args:
        task: task of the network.
        keys: `image`, or `image` and `label`; labels become class indices.
        series_uid: SeriesInstanceUID to read from a DICOM folder with several series.
        irregular: how to treat a gantry tilt and single missing slices of a DICOM series, `refuse` or `resample`.
    """
    has_label, is_volume = "label" in keys, task.axcodes is not None
    image_keys = [key for key in keys if key != "label"]
    intensity = task.intensity
    steps = [
        load_image_transform(image_keys, series_uid=series_uid, irregular=irregular),
        load_label_transform(["label"]) if has_label else None,
        EnsureChannelFirstd(keys),
        CheckImageFitsTaskd("image", task.channels, intensity.mode, flat=not is_volume),
        NameOutputd("image"),
        CheckLabelMatchesImaged() if has_label else None,
        EncodeLabelsd("label", task.label_values, names=task.label_names, ignore=task.ignore) if has_label else None,
        Orientationd(keys, axcodes=task.axcodes, labels=AXIS_LABELS) if is_volume else None,
        CompareWithTrainingd("image", task),
        SliceSpacingd(keys, task.pixdim, [INTERPOLATION[key] for key in keys]),
        ScaleToUnitRanged("image", intensity.mode, intensity.lower, intensity.upper),
    ]
    return Compose([step for step in steps if step is not None])


def training_preprocessing(task: Task, keys: Sequence[str] = ("image", "label")) -> Compose:
    """Returns `preprocessing`, followed by centre padding and cropping to the task's image size."""
    fit = ResizeWithPadOrCropd(keys, spatial_size=(*task.image_size, -1))
    return Compose([*preprocessing(task, keys).transforms, fit])


def augmentation(keys: Sequence[str] = ("image", "label"), strength: float = 1.0) -> Compose:
    """Returns the random transforms of a training slice `(C, H, W)` with values in [0, 1].

    Slices are never mirrored: left and right differ in a patient. The result has plain tensors, see `PlainCompose`.

    Args:
        keys: `image`, and keys transformed with it: `label`, or `coordinates`, which are added first.
        strength: factor of rotation (15 degrees), scaling (15 %), shift (6 % of each side), contrast, blur and noise.
    """
    return PlainCompose(
        [
            *([AddCoordinatesd()] if "coordinates" in keys else []),
            RandomAffined(keys, prob=0.8, strength=strength),
            RandAdjustContrastd("image", prob=0.5, gamma=(1 / (1 + strength), 1 + strength)),
            RandScaleIntensityd("image", factors=0.2 * strength, prob=0.4),
            RandGaussianSmoothd("image", sigma_x=(0.3, 1.0), sigma_y=(0.3, 1.0), prob=0.15 * strength),
            RandGaussianNoised("image", prob=0.3, std=0.04 * strength),
        ]
    )


def contrastive_augmentation(task: Task, smallest_crop: float = 0.4) -> Compose:
    """Returns the random transforms of one view of a slice's `image`, (C, H, W) in [0, 1], for contrastive learning.

    The encoder learns what two views share, so they differ more than after `augmentation`: a random crop comes first.

    Args:
        task: task with the image size that crops are resized to.
        smallest_crop: side of the smallest crop, as a fraction of the image's.
    """
    crop = RandScaleCropd("image", roi_scale=smallest_crop, max_roi_scale=1.0, random_size=True)
    fit = Resized("image", spatial_size=task.image_size, mode="bilinear")
    return PlainCompose([crop, fit, *augmentation(["image"], strength=1.5).transforms])


class TwoViews(Randomizable, Transform):
    """Stacks two random views of the same image.

    Args:
        transform: random transform of an item with `image` (C, H, W); shares the random state of this one.
    """

    def __init__(self, transform: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> None:
        self.transform = transform

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> TwoViews:
        """Seeds the random transform."""
        super().set_random_state(seed, state)
        if isinstance(self.transform, Randomizable):
            self.transform.set_random_state(seed, state)
        return self

    def randomize(self, data: Any = None) -> None:
        """Draws nothing; `transform` does."""

    def __call__(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the item with `image` (2, C, H, W)."""
        views = [torch.as_tensor(np.asarray(self.transform(dict(item))["image"])) for _ in range(2)]
        return {**item, "image": torch.stack(views)}

"""What happens to an image before the network sees it: one piece of code for training and for inference."""

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

from tskd_monai.data.fitness import CheckImageFitsTaskd, CompareWithTrainingd
from tskd_monai.data.labels import CheckLabelMatchesImaged, EncodeLabelsd
from tskd_monai.data.output_names import NameOutputd
from tskd_monai.data.task import Task
from tskd_monai.data.volume_reader import load_image_transform, load_label_transform
from tskd_monai.transforms.coordinates import AddCoordinatesd
from tskd_monai.transforms.intensity import ScaleToUnitRanged
from tskd_monai.transforms.random_affine import INTERPOLATION, RandomAffined
from tskd_monai.transforms.slice_spacing import SliceSpacingd


def preprocessing(
    task: Task, keys: Sequence[str] = ("image",), series_uid: str | None = None, irregular: str = "refuse"
) -> Compose:
    """Returns the transform from files to arrays `(C, H, W, D)` at the task's orientation, spacing and intensity.

    Args:
        task: of the study.
        keys: `image`, or `image` and `label`; labels become network classes.
        series_uid: which DICOM series to take from a folder that holds several.
        irregular: what to do with a gantry tilt and single missing slices of a DICOM series, `refuse` or `resample`.
    """
    modes = [INTERPOLATION[key] for key in keys]
    steps: list[Transform] = [
        load_image_transform([key for key in keys if key != "label"], series_uid=series_uid, irregular=irregular),
        *([load_label_transform(["label"])] if "label" in keys else []),
        EnsureChannelFirstd(keys),
        CheckImageFitsTaskd("image", task.channels, task.intensity.mode, flat=task.axcodes is None),
        NameOutputd("image"),
    ]
    if "label" in keys:
        steps += [CheckLabelMatchesImaged(), EncodeLabelsd("label", task.label_values)]
    if task.axcodes is not None:
        steps.append(Orientationd(keys, axcodes=task.axcodes, labels=(("L", "R"), ("P", "A"), ("I", "S"))))
    steps.append(CompareWithTrainingd("image", task))
    steps.append(SliceSpacingd(keys, task.pixdim, modes))
    steps.append(ScaleToUnitRanged("image", task.intensity.mode, task.intensity.lower, task.intensity.upper))
    return Compose(steps)


def training_preprocessing(task: Task, keys: Sequence[str] = ("image", "label")) -> Compose:
    """Returns `preprocessing` followed by padding and cropping around the centre to the task's image size."""
    fit = ResizeWithPadOrCropd(keys, spatial_size=(*task.image_size, -1))
    return Compose([*preprocessing(task, keys).transforms, fit])


def augmentation(keys: Sequence[str] = ("image", "label"), strength: float = 1.0) -> Compose:
    """Returns the random transforms of one training slice, arrays `(C, H, W)` with images in [0, 1].

    There are no mirror images: left and right differ in a patient.

    Args:
        keys: `image`, and what moves with it: `label`, or `coordinates`, which are added first.
        strength: scales rotation (15 degrees), scaling (15 %), shift (6 % of each side), contrast, blur and noise.
    """
    first = [AddCoordinatesd()] if "coordinates" in keys else []
    return Compose(
        [
            *first,
            RandomAffined(keys, prob=0.8, strength=strength),
            RandAdjustContrastd("image", prob=0.5, gamma=(1 / (1 + strength), 1 + strength)),
            RandScaleIntensityd("image", factors=0.2 * strength, prob=0.4),
            RandGaussianSmoothd("image", sigma_x=(0.3, 1.0), sigma_y=(0.3, 1.0), prob=0.15 * strength),
            RandGaussianNoised("image", prob=0.3, std=0.04 * strength),
        ]
    )


def contrastive_augmentation(task: Task, smallest_crop: float = 0.4) -> Compose:
    """Returns the random transforms of one view of a slice's `image`, (C, H, W) in [0, 1], for contrastive learning.

    What two views have in common is what is learnt, so they differ more than `augmentation` lets images differ: a
    crop anywhere in the image comes first.

    Args:
        task: whose image size the crop is resized to.
        smallest_crop: sides of the smallest crop, as a share of the image's.
    """
    crop = RandScaleCropd("image", roi_scale=smallest_crop, max_roi_scale=1.0, random_size=True)
    fit = Resized("image", spatial_size=task.image_size, mode="bilinear")
    return Compose([crop, fit, *augmentation(["image"], strength=1.5).transforms])


class TwoViews(Randomizable, Transform):
    """Gives two draws of a random transform of the same image, one behind the other.

    Args:
        transform: of an item with `image` (C, H, W); its random state is that of this transform.
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
        """Draws nothing: the transform does."""

    def __call__(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the item with `image` (2, C, H, W)."""
        views = [torch.as_tensor(np.asarray(self.transform(dict(item))["image"])) for _ in range(2)]
        return {**item, "image": torch.stack(views)}

"""Whether an image is of the kind that a task's network was made for."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.data.utils import affine_to_spacing
from monai.transforms import MapTransform

from tskd_monai.data.image_ranges import UNLIKE_TRAINING, image_extent, unlike_training
from tskd_monai.data.output_names import image_title, output_name
from tskd_monai.data.task import REFUSE, Task

logger = logging.getLogger(__name__)


class NameOutputd(MapTransform):
    """Puts the item's `name` into its image's metadata, from which outputs are named.

    Args:
        keys: of images.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> Mapping[Hashable, Any]:
        """Returns the dictionary; an item without one keeps the file's name."""
        for key in self.key_iterator(dict(data)):
            if "name" in data:
                data[key].meta["output_name"] = str(data["name"])
        return data


CT = "CT"
HOUNSFIELD_MODE = "hu_window"
PIXELS = "pixels"
"""`unit` in the metadata of a 2D image file."""


class CheckImageFitsTaskd(MapTransform):
    """Refuses an image of another kind (volume or 2D image file), number of channels or modality than the task's.

    A 2D image file has no size in mm and no orientation. Only DICOM states a modality: a task whose intensities are a
    window of HU is for CT, and any other is not.

    Args:
        keys: of images `(C, …)`.
        channels: that the task's network takes.
        intensity_mode: of the task: `percentile`, `hu_window` or `rgb`.
        flat: whether the task is about 2D image files.
    """

    def __init__(self, keys: KeysCollection, channels: int, intensity_mode: str, flat: bool = False) -> None:
        super().__init__(keys)
        self.flat = flat
        self.channels = channels
        self.wants_ct = intensity_mode == HOUNSFIELD_MODE

    def __call__(self, data: Mapping[Hashable, Any]) -> Mapping[Hashable, Any]:
        """Returns the dictionary unchanged.

        Raises:
            ValueError: when an image does not fit; names it, what was expected and what was found.
        """
        for key in self.key_iterator(dict(data)):
            image = data[key]
            meta = image.meta if isinstance(image, MetaTensor) else {}
            name = image_title(meta)
            if "unit" in meta:
                self._check_kind(meta["unit"] == PIXELS, name)
            if image.shape[0] != self.channels:
                raise ValueError(
                    f"Expected {self.channels} channel(s) in {name}, found {image.shape[0]}; "
                    "this model was trained on images of the other kind (grey has 1 channel, colour 3)."
                )
            modality = meta.get("modality")
            if modality and (modality == CT) != self.wants_ct:
                raise ValueError(
                    f"Expected {'CT' if self.wants_ct else 'another modality than CT'} for this model, found "
                    f"{modality} in {name}; choose a model for {modality}."
                )
        return data

    def _check_kind(self, flat: bool, name: str) -> None:
        if flat and not self.flat:
            raise ValueError(
                f"Expected a NIfTI volume or a DICOM series for this model, found the 2D image file {name}, which has "
                "no spacing and no orientation; send the volume that it was made from."
            )
        if self.flat and not flat:
            raise ValueError(
                f"Expected a 2D image file, such as PNG, for this model, found the volume {name}; its slices are "
                "oriented and spaced in mm, which this model was not trained on. Choose a model of volumes."
            )


SAMPLED_VALUES = 1_000_000
"""Voxels that the percentiles of an image are taken of: all of a CT would take a second."""


class CompareWithTrainingd(MapTransform):
    """Warns of an image that is far from the task's training images, or refuses it, as the task says.

    Args:
        keys: of images (C, H, W, D) in the task's orientation, MetaTensor.
        task: with `training_images` and what to do about an image that is unlike them.
    """

    def __init__(self, keys: KeysCollection, task: Task) -> None:
        super().__init__(keys)
        self.task = task

    def __call__(self, data: Mapping[Hashable, Any]) -> Mapping[Hashable, Any]:
        """Returns the dictionary; the image's metadata state how it differs, or an empty text.

        Raises:
            ValueError: when an image is unlike the training images and the task refuses these.
        """
        for key in self.key_iterator(dict(data)):
            image = data[key]
            found = "; ".join(self._findings(image))
            image.meta[UNLIKE_TRAINING] = found
            if not found:
                continue
            name = str(output_name(image.meta, None)["subject"]).removesuffix(".nii.gz")
            if self.task.unlike_training == REFUSE:
                raise ValueError(
                    f"Expected an image like those that the model was trained on in {name}, found {found}; check the "
                    "image, or set unlike_training in task.json to warn to segment it all the same."
                )
            logger.warning("%s is unlike the images that the model was trained on: %s.", name, found)
        return data

    def _findings(self, image: MetaTensor) -> list[str]:
        values = value_range(image)
        if values is None:
            return ["it has no finite values"]
        spacing = affine_to_spacing(np.asarray(image.affine, dtype=np.float64)).tolist()
        axis = None if self.task.axcodes is None else 2
        return unlike_training(image_extent(image.shape[1:], spacing, values, axis), self.task)


def value_range(image: MetaTensor) -> tuple[float, float] | None:
    """Returns the 0.5th and 99.5th percentile of the finite values of an image (C, H, W, D); None without any."""
    step = max(1, round((image.numel() / SAMPLED_VALUES) ** 0.5))
    sample = np.asarray(image.as_tensor()[:, ::step, ::step])
    finite = sample[np.isfinite(sample)]
    lowest, highest = np.percentile(finite, [0.5, 99.5]).tolist() if finite.size else (0.0, 0.0)
    return (lowest, highest) if finite.size else None

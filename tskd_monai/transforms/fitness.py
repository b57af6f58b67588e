"""Whether an image is of the kind that a task's network was made for."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform


def image_title(metadata: Mapping[str, Any]) -> str:
    """Returns what an image is called in messages.

    A file has its name; a DICOM series, whose folder may be called after the patient, is named by its hash.
    """
    if metadata.get("series_hash"):
        return f"series {metadata['series_hash']}"
    return Path(str(metadata.get("filename_or_obj", "the image"))).name


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

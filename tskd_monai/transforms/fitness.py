"""Whether an image is of the kind that a task's network was made for."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

CT = "CT"
HOUNSFIELD_MODE = "hu_window"


class CheckImageFitsTaskd(MapTransform):
    """Refuses an image of another number of channels or, where it is known (DICOM), of another modality.

    A task whose intensities are a window of HU is for CT, and any other is not.

    Args:
        keys: of images `(C, …)`.
        channels: that the task's network takes.
        intensity_mode: of the task: `percentile`, `hu_window` or `rgb`.
    """

    def __init__(self, keys: KeysCollection, channels: int, intensity_mode: str) -> None:
        super().__init__(keys)
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
            name = Path(str(meta.get("filename_or_obj", "the image"))).name
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

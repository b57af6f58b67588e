"""Label values to network classes, their largest components, and the check that label and image belong together."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from monai.transforms.utils import get_largest_connected_component_mask

# NIfTI stores affines in single precision: equal geometries differ by less than this, in mm.
AFFINE_TOLERANCE_MM = 1e-3
SHOWN_VALUES = 8


def _name(image: Any) -> str:
    path = image.meta.get("filename_or_obj") if isinstance(image, MetaTensor) else None
    return Path(str(path)).name if path else "the array"


def _require_finite(image: torch.Tensor) -> None:
    """Raises ValueError: what such voxels should be is not for training or evaluation to guess."""
    count = int((~torch.isfinite(torch.as_tensor(image))).sum())
    if count:
        raise ValueError(
            f"{_name(image)}: expected finite voxels in a labelled image, found {count} that are NaN or infinite. "
            "Export the image again, or leave the case out of the datalist."
        )


class EncodeLabelsd(MapTransform):
    """Turns label values into network classes, the index of the value among `label_values`.

    Args:
        keys: of label maps.
        label_values: value of each class, background first.
        allow_missing_keys: pass over absent keys.
    """

    def __init__(self, keys: KeysCollection, label_values: Sequence[int], allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.label_values = tuple(label_values)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns the dictionary with encoded label maps, uint8.

        Raises:
            ValueError: when a label map holds a value that is not declared; names the file and the values.
        """
        encoded = dict(data)
        for key in self.key_iterator(encoded):
            label = encoded[key]
            classes = torch.zeros_like(label, dtype=torch.uint8)
            known = torch.zeros_like(label, dtype=torch.bool)
            for index, value in enumerate(self.label_values):
                matches = label == value
                classes[matches] = index
                known |= matches
            if not known.all():
                found = sorted(set(np.unique(np.asarray(label)).tolist()) - set(self.label_values))
                raise ValueError(
                    f"{_name(label)}: expected label values {list(self.label_values)}, found also "
                    f"{found[:SHOWN_VALUES]}. Declare them in the task's `labels`, or mend the file."
                )
            encoded[key] = classes
        return encoded


class KeepLargestComponentsd(MapTransform):
    """Keeps of each named label the largest connected component, its neighbours counted across corners too.

    MONAI's `KeepLargestConnectedComponent`, called for the box around a label and not for the whole volume: on a CT
    that is the difference between megabytes and gigabytes.

    Args:
        keys: of label maps (1, X, Y, Z).
        label_values: whose smaller components become background.
    """

    def __init__(self, keys: KeysCollection, label_values: Sequence[int]) -> None:
        super().__init__(keys)
        self.label_values = tuple(label_values)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns the dictionary with the label maps changed; the ones that came in stay as they are."""
        kept = dict(data)
        for key in self.key_iterator(kept):
            label_map = kept[key].clone()
            for value in self.label_values:
                box = self._box(np.asarray(label_map) == value)
                if box is not None:
                    inside = label_map[box]
                    mask = torch.as_tensor(inside == value)
                    inside[mask & ~get_largest_connected_component_mask(mask)] = 0
            kept[key] = label_map
        return kept

    @staticmethod
    def _box(mask: np.ndarray) -> tuple[slice, ...] | None:
        """Returns the smallest box around a mask, None when it is empty."""
        ends = []
        for axis in range(mask.ndim):
            found = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
            if not len(found):
                return None
            ends.append(slice(int(found[0]), int(found[-1]) + 1))
        return tuple(ends)


class CheckLabelMatchesImaged(Transform):
    """Refuses a label whose shape or affine is not its image's, and a labelled image that is not all numbers.

    Args:
        image_key: of the image `(C, H, W, D)`.
        label_key: of the label `(1, H, W, D)`; passed over when absent.
    """

    def __init__(self, image_key: str = "image", label_key: str = "label") -> None:
        self.image_key, self.label_key = image_key, label_key

    def __call__(self, data: Mapping[Hashable, Any]) -> Mapping[Hashable, Any]:
        """Returns the dictionary unchanged.

        Raises:
            ValueError: when they differ, the label has several channels, or the image NaN or infinite voxels; names
                both files, what was expected and found.
        """
        if self.label_key not in data:
            return data
        image, label = data[self.image_key], data[self.label_key]
        names = f"label {_name(label)} of image {_name(image)}"
        if label.shape[0] != 1:
            raise ValueError(f"{names}: expected 1 channel, found {label.shape[0]}. Save a map of label values.")
        if image.shape[1:] != label.shape[1:]:
            raise ValueError(
                f"{names}: expected shape {tuple(image.shape[1:])}, found {tuple(label.shape[1:])}. "
                "Resample the label onto the image's grid, or pair the files that belong together."
            )
        if isinstance(image, MetaTensor) and isinstance(label, MetaTensor):
            difference = float(np.abs(np.asarray(image.affine) - np.asarray(label.affine)).max())
            if difference > AFFINE_TOLERANCE_MM:
                raise ValueError(
                    f"{names}: expected the image's affine, found one that differs by {difference:.4g} mm. "
                    "Resample the label onto the image's grid."
                )
        _require_finite(image)
        return data

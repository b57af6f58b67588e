"""Slices of volumes, and ready-made slices, as datasets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms import Randomizable
from torch.utils.data import Dataset
from tqdm import tqdm

from tskd_monai.data.image_file import read_image_file


class SliceDataset(Dataset[dict[str, Any]], Randomizable):
    """The slices of volumes that are preprocessed once and held in memory.

    Args:
        data: items such as `{"image", "label", "case"}`; an item with `slices` gives only these slices.
        transform: of a whole item, to arrays `(C, H, W, D)`; slices are taken along D. A slice also has its index
            `slice` and its `position` along the volume, from 0 to 1.
        slice_transform: of one slice, arrays `(C, H, W)`; its random state is the dataset's.
        keys: of the arrays.

    Raises:
        ValueError: when an item's `slices` has an index that the volume does not.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        transform: Callable[[Mapping[str, Any]], Mapping[str, Any]],
        slice_transform: Callable[[Any], Any] | None = None,
        keys: Sequence[str] = ("image", "label"),
    ) -> None:
        self.data = data
        self.keys = tuple(keys)
        self.transform = transform
        self.slice_transform = slice_transform
        self._slices: list[dict[str, Any]] = []
        self.origins: list[tuple[str, int]] = []  # case and slice index of each
        for entry in tqdm(data, desc="Loading", unit="case"):
            items = self._cut(entry)
            self._slices.extend(items)
            self.origins.extend((str(entry.get("case")), item["slice"]) for item in items)

    def _cut(self, entry: Mapping[str, Any]) -> list[dict[str, Any]]:
        volume = self.transform(dict(entry))
        # Plain tensors: the geometry of a slice means nothing to a 2D network, and metadata would be copied each time.
        arrays = {key: torch.as_tensor(np.asarray(volume[key])) for key in self.keys}
        depth = arrays[self.keys[0]].shape[-1]
        indices = entry.get("slices", range(depth))
        if any(not 0 <= index < depth for index in indices):
            raise ValueError(f"Expected slices of 0 to {depth - 1} of case {entry.get('case')}, found {list(indices)}.")
        return [
            {
                **{key: array[..., index].contiguous() for key, array in arrays.items()},
                "slice": index,
                "position": index / max(depth - 1, 1),
            }
            for index in indices
        ]

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> SliceDataset:
        """Seeds the slices' random transforms."""
        super().set_random_state(seed, state)
        if isinstance(self.slice_transform, Randomizable):
            self.slice_transform.set_random_state(seed, state)
        return self

    def randomize(self, data: Any = None) -> None:
        """Draws nothing: the slice transform does."""

    def arrays(self, key: str) -> list[torch.Tensor]:
        """Returns the array of each slice, (C, H, W), before the slice transform."""
        return [item[key] for item in self._slices]

    def classes_present(self, key: str = "label") -> list[set[int]]:
        """Returns the foreground classes on each slice, for samplers."""
        return [set(item[key].unique().int().tolist()) - {0} for item in self._slices]

    def __len__(self) -> int:
        return len(self._slices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = dict(self._slices[index])
        return item if self.slice_transform is None else self.slice_transform(item)


class PreparedImageDataset(SliceDataset):
    """2D image files that are already at the task's size and in its intensity convention, such as a synthetic set.

    Args:
        data: items `{"image": path}` of 8-bit grey or RGB files; 0 to 255 becomes [0, 1].
        slice_transform: as in `SliceDataset`.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        slice_transform: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__(data, read_prepared_image, slice_transform, keys=("image",))


def read_prepared_image(entry: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns the `image` (C, H, W, 1), float32 in [0, 1], of an entry that names an 8-bit grey or RGB file."""
    pixels = read_image_file(entry["image"]) / 255
    return {"image": pixels[None] if pixels.ndim == 3 else np.moveaxis(pixels, -1, 0)}

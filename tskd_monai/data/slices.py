"""Datasets of slices of volumes and of prepared 2D images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms import Randomizable
from torch.utils.data import Dataset
from tqdm import tqdm

from tskd_monai.data.image_file import read_image_file
from tskd_monai.data.neighbours import neighbour_indices


class SliceDataset(Dataset[dict[str, Any]], Randomizable):
    """Slices of volumes that are preprocessed once and held in memory.

    Args:
        data: items such as `{"image", "label", "case"}`; of an item with `slices`, only these slices are used.
        transform: transform from an item to arrays `(C, H, W, D)`, which are cut into slices along D. A slice also has
            its index `slice` and its `position` along the volume, from 0 to 1.
        slice_transform: transform of a slice, arrays `(C, H, W)`; the dataset sets its random state.
        keys: keys of the arrays.
        neighbours: slices on each side that become further channels of `image`, see `data.neighbours`; they are those
            of the volume, among `slices` or not.

    Raises:
        ValueError: when an item's `slices` exceed the volume.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        transform: Callable[[Mapping[str, Any]], Mapping[str, Any]],
        slice_transform: Callable[[Any], Any] | None = None,
        keys: Sequence[str] = ("image", "label"),
        neighbours: int = 0,
    ) -> None:
        self.data = data
        self.keys = tuple(keys)
        self.neighbours = neighbours
        self.transform = transform
        self.slice_transform = slice_transform
        self._slices: list[dict[str, Any]] = []
        self._stacks: list[list[torch.Tensor]] = []  # with neighbours: the images of each slice's channels
        self.origins: list[tuple[str, int]] = []  # case and slice index of each slice
        for entry in tqdm(data, desc="Loading", unit="case"):
            items = self._cut(entry)
            self._slices.extend(items)
            self.origins.extend((str(entry.get("case")), item["slice"]) for item in items)

    def _cut(self, entry: Mapping[str, Any]) -> list[dict[str, Any]]:
        volume = self.transform(dict(entry))
        # Plain tensors: a 2D network does not use a slice's geometry, and metadata would be copied each time.
        arrays = {key: torch.as_tensor(np.asarray(volume[key])) for key in self.keys}
        depth = arrays[self.keys[0]].shape[-1]
        indices = entry.get("slices", range(depth))
        if any(not 0 <= index < depth for index in indices):
            raise ValueError(f"Expected slices of 0 to {depth - 1} of case {entry.get('case')}, found {list(indices)}.")
        items = [
            {
                **{key: array[..., index].contiguous() for key, array in arrays.items()},
                "slice": index,
                "position": index / max(depth - 1, 1),
            }
            for index in indices
        ]
        if self.neighbours:
            images = {item["slice"]: item["image"] for item in items}
            for index in indices:
                around = neighbour_indices(index, depth, self.neighbours)
                stack = [images.get(other, arrays["image"][..., other]).contiguous() for other in around]
                images.update(zip(around, stack, strict=True))  # each slice is held once
                self._stacks.append(stack)
        return items

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> SliceDataset:
        """Seeds the random slice transform."""
        super().set_random_state(seed, state)
        if isinstance(self.slice_transform, Randomizable):
            self.slice_transform.set_random_state(seed, state)
        return self

    def randomize(self, data: Any = None) -> None:
        """Draws nothing; the slice transform does."""

    def arrays(self, key: str) -> list[torch.Tensor]:
        """Returns the array of each slice, (C, H, W), without neighbours and before the slice transform."""
        return [item[key] for item in self._slices]

    @property
    def positions(self) -> list[float]:
        """The position of each slice along its volume, from 0 to 1."""
        return [item["position"] for item in self._slices]

    def classes_present(self, key: str = "label") -> list[set[int]]:
        """Returns the foreground classes on each slice, for samplers."""
        return [{index for index in item[key].unique().int().tolist() if index > 0} for item in self._slices]

    def __len__(self) -> int:
        return len(self._slices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = dict(self._slices[index])
        if self.neighbours:
            item["image"] = torch.cat(self._stacks[index])
        return item if self.slice_transform is None else self.slice_transform(item)


class PreparedImageDataset(SliceDataset):
    """2D image files at the task's size and in its intensity convention, such as synthetic images.

    Args:
        data: items `{"image": path}` of 8-bit grey or RGB files; 0 to 255 maps to [0, 1].
        slice_transform: see `SliceDataset`.
        neighbours: see `SliceDataset`; the image, which has none, is repeated.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        slice_transform: Callable[[Any], Any] | None = None,
        neighbours: int = 0,
    ) -> None:
        super().__init__(data, read_prepared_image, slice_transform, keys=("image",), neighbours=neighbours)


def read_prepared_image(entry: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns the `image` (C, H, W, 1), float32 in [0, 1], of an entry that names an 8-bit grey or RGB file."""
    pixels = read_image_file(entry["image"]) / 255
    return {"image": pixels[None] if pixels.ndim == 3 else np.moveaxis(pixels, -1, 0)}

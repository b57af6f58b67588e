"""Label maps: whole numbers that are declared, on the grid of their image.

Planning, training and evaluation check labels with these functions, so that what is planned can be trained.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform

from tskd_monai.data.drawn_structures import DRAWN, undrawn_classes, undrawn_code
from tskd_monai.data.grid import aligned, corner_distance, same_grid
from tskd_monai.data.image_file import LOSSY_SUFFIXES
from tskd_monai.data.output_names import image_title

logger = logging.getLogger(__name__)

NEAR_WHOLE = 1e-3
"""Largest distance to a whole number; header scaling and single precision cause less."""

SHOWN_VALUES = 8
BLACK_AND_WHITE = 255


def listed_values(values: np.ndarray | Sequence[float]) -> str:
    """Returns the first eight distinct values, in order, and the number of others, for a message."""
    distinct = np.unique(np.asarray(values))
    others = len(distinct) - SHOWN_VALUES
    listed = [
        int(value) if np.isfinite(value) and value == np.rint(value) else value
        for value in distinct[:SHOWN_VALUES].tolist()
    ]
    return f"{listed}" + (f" and {others} more" if others > 0 else "")


def whole_labels(label: np.ndarray, name: str) -> np.ndarray:
    """Returns a label map with values within 1e-3 of a whole number rounded, with a warning; others are unchanged.

    Args:
        label: label map as read, any shape.
        name: name of its file, for the warning.
    """
    if not np.issubdtype(label.dtype, np.floating):
        return label
    rounded = np.rint(label)
    if np.array_equal(rounded, label):
        return label
    with np.errstate(invalid="ignore"):  # for infinite values
        offset = np.abs(label - rounded)
    near = (offset > 0) & (offset <= NEAR_WHOLE)
    if near.any():
        logger.warning(
            "%s: %d label values are up to %.1g off whole numbers; they are rounded.",
            name,
            int(near.sum()),
            float(offset[near].max()),
        )
    return np.where(near, rounded, label)


def check_declared(values: np.ndarray, known: np.ndarray, label_values: Sequence[int], name: str) -> None:
    """Raises ValueError when a label map holds undeclared values; names the file, the values and what to do.

    Args:
        values: values of the label map.
        known: whether each value is declared.
        label_values: declared values, background included.
        name: name of the file in the message.
    """
    if not known.all():
        unknown = values[~known]
        raise ValueError(
            f"{name}: expected label values {listed_values(label_values)}, found also {listed_values(unknown)}. "
            f"{_advice(unknown, label_values, name)}"
        )


class EncodeLabelsd(MapTransform):
    """Encodes label values as network classes, the index of each value in `label_values`.

    Of an item with `structures`, the names of those that were drawn, the background may be one of the others. Such
    voxels, and those to ignore, get a value below 0 (`losses.marginal_dice_ce`).

    Args:
        keys: keys of label maps.
        label_values: value of each class, background first.
        allow_missing_keys: skip absent keys.
        names: name of each class; needed for items with `structures`.
        ignore: value of voxels to ignore; None: there are none.
    """

    def __init__(
        self,
        keys: KeysCollection,
        label_values: Sequence[int],
        allow_missing_keys: bool = False,
        names: Sequence[str] = (),
        ignore: int | None = None,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.label_values = tuple(label_values)
        self.names, self.ignore = tuple(names), ignore

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns the dictionary with encoded label maps, uint8, or int32 for partly labelled ones.

        Raises:
            ValueError: when a label map holds undeclared values, voxels of a structure that was not drawn, or nothing
                but voxels to ignore; names the file and the values.
        """
        encoded = dict(data)
        undrawn = undrawn_classes(encoded.get(DRAWN), self.names, _name(encoded.get("image")))
        for key in self.key_iterator(encoded):
            label = encoded[key]
            values = whole_labels(np.asarray(label), _name(label))
            classes = np.zeros_like(values, np.uint8)  # in the memory order of the values
            known = np.zeros_like(values, bool)
            for index, value in enumerate(self.label_values):
                matches = values == value
                known |= matches
                classes |= matches * np.uint8(index)  # several times as fast as an assignment by mask
            ignored = np.zeros(0, bool) if self.ignore is None else values == self.ignore
            if ignored.any():
                known |= ignored
                if ignored.all():
                    raise ValueError(
                        f"{_name(label)}: expected labelled voxels, found only {self.ignore}, the value to ignore; "
                        "list the image in `unlabeled`."
                    )
            check_declared(values, known, self.label_values, _name(label))
            if undrawn or ignored.any():
                classes = self._partly(classes, undrawn, ignored, _name(label))
            dtype = torch.uint8 if classes.dtype == np.uint8 else torch.int32
            encoded[key] = torch.zeros_like(label, dtype=dtype).copy_(torch.from_numpy(classes))
        return encoded

    def _partly(self, classes: np.ndarray, undrawn: Sequence[int], ignored: np.ndarray, name: str) -> np.ndarray:
        """Returns classes, int32, in which the background may be an undrawn class, and ignored voxels any class."""
        found = [self.names[index] for index in undrawn if (classes == index).any()]
        if found:
            raise ValueError(
                f"{name}: expected no voxel of {', '.join(found)}, which `{DRAWN}` of the case does not list, found "
                "some; list it, or remove it from the label."
            )
        partly = np.where(classes == 0, np.int32(undrawn_code(undrawn)), classes.astype(np.int32))
        if ignored.any():
            partly[ignored] = undrawn_code(range(1, len(self.label_values)))
        return partly


Grid = tuple[tuple[int, ...], np.ndarray | None]
"""Shape of the three spatial axes, and the affine to RAS mm; None for a 2D image file."""


def check_label_grid(image: Grid, label: Grid, names: str) -> None:
    """Raises ValueError when a label has another shape than its image, or another affine (`same_grid`).

    Args:
        image: grid of the image.
        label: grid of the label; affines are compared where both exist.
        names: names of both in the message.
    """
    (shape, affine), (label_shape, label_affine) = image, label
    if shape != label_shape:
        raise ValueError(
            f"{names}: expected shape {shape}, found {label_shape}. "
            "Resample the label onto the image's grid, or pair the files that belong together."
        )
    if affine is not None and label_affine is not None and not same_grid(shape, affine, label_affine):
        raise ValueError(
            f"{names}: expected the image's affine, found one that moves a corner by "
            f"{corner_distance(shape, affine, label_affine):.4g} mm. Resample the label onto the image's grid."
        )


class CheckLabelMatchesImaged(Transform):
    """Refuses a label whose shape or grid differs from its image's, and a labelled image with NaN or infinite voxels.

    A label that holds the same voxels in another order of axes, as a converter of DICOM may write it, is reordered.

    Args:
        image_key: key of the image `(C, H, W, D)`.
        label_key: key of the label `(1, H, W, D)`; without one, nothing is checked.
    """

    def __init__(self, image_key: str = "image", label_key: str = "label") -> None:
        self.image_key, self.label_key = image_key, label_key

    def __call__(self, data: Mapping[Hashable, Any]) -> Mapping[Hashable, Any]:
        """Returns the dictionary, with the label's axes in the order of its image's.

        Raises:
            ValueError: when the grids differ, the label has several channels, or the image has NaN or infinite voxels;
                names both files, what was expected and found.
        """
        if self.label_key not in data:
            return data
        image, label = data[self.image_key], data[self.label_key]
        names = f"label {_name(label)} of image {_name(image)}"
        if label.shape[0] != 1:
            raise ValueError(
                f"{names}: expected 1 channel, found {label.shape[0]}. Save one number per voxel, the value of its "
                "label; colours are no label values."
            )
        found = _aligned(label, image)
        check_label_grid(_grid(image), _grid(found), names)
        _require_finite(image)
        return data if found is label else {**data, self.label_key: found}


def _aligned(label: Any, image: Any) -> Any:
    """Returns a label (1, H, W, D) in the order of its image's axes, if that gives the image's grid."""
    if not (isinstance(label, MetaTensor) and isinstance(image, MetaTensor)):
        return label
    voxels, affine = np.asarray(label)[0], np.asarray(label.affine)
    moved, moved_affine = aligned(voxels, affine, tuple(image.shape[1:]), np.asarray(image.affine))
    if moved is voxels or np.array_equal(affine, moved_affine):
        return label
    logger.debug("%s: its axes are brought into the order of its image's; both are one grid.", _name(label))
    return MetaTensor(torch.from_numpy(moved[None].copy()), affine=torch.from_numpy(moved_affine), meta=label.meta)


def _name(image: Any) -> str:
    return image_title(image.meta) if isinstance(image, MetaTensor) else "the array"


def _grid(image: torch.Tensor) -> Grid:
    """Returns the grid of an array (C, H, W, D)."""
    return tuple(image.shape[1:]), np.asarray(image.affine) if isinstance(image, MetaTensor) else None


def _advice(unknown: np.ndarray, label_values: Sequence[int], name: str) -> str:
    """Returns advice about undeclared values in a file."""
    if name.lower().endswith(LOSSY_SUFFIXES):
        return "JPEG compression changes values at edges; export the label as PNG."
    if not (np.isfinite(unknown) & (np.rint(unknown) == unknown)).all():
        return "Declare whole numbers as `labels`; resample labels with nearest-neighbour interpolation."
    distinct = np.unique(unknown).tolist()
    if distinct == [BLACK_AND_WHITE]:
        return (
            f"In a black and white mask the label is {BLACK_AND_WHITE}: declare that value (--labels "
            f"name={BLACK_AND_WHITE} for a folder), or write 1 into the file."
        )
    if distinct == [1] and BLACK_AND_WHITE in label_values:
        return f"Write {BLACK_AND_WHITE} instead of 1 into the file, as in the other masks."
    return "Declare them (--labels of a folder, `labels` of a datalist or task), or correct the file."


def _require_finite(image: torch.Tensor) -> None:
    """Raises ValueError for NaN or infinite voxels, whose true values are unknown."""
    count = int((~torch.isfinite(torch.as_tensor(image))).sum())
    if count:
        raise ValueError(
            f"{_name(image)}: expected finite voxels in a labelled image, found {count} that are NaN or infinite. "
            "Export the image again, or leave the case out of the datalist."
        )

"""Which slices of a saved label a person has confirmed.

A propagated mask that nobody looked at is no label. Confirmed are the slices on which a person marked something, those
where the saved label differs from what the model proposed, and those that the person lists. A label of an image for
which nothing was proposed was drawn or checked by a person, on every slice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from monai.transforms import Compose, EnsureChannelFirstd

from tskd_monai.annotation.slice_view import SliceView
from tskd_monai.data.image_file import is_image_file
from tskd_monai.data.labels import CheckLabelMatchesImaged, check_declared, whole_labels
from tskd_monai.data.volume_reader import load_image_transform, load_label_transform
from tskd_monai.files.atomic import atomic_path
from tskd_monai.files.json_files import is_a, shown

ALL = "all"
"""In place of a list of confirmed slices: every slice."""


class Proposal(NamedTuple):
    """What the promptable model proposed for an image, in all requests together.

    Attributes:
        label_map: label values along the array axes of the image's file.
        marked: slices on which a person marked something, ascending.
    """

    label_map: np.ndarray
    marked: tuple[int, ...]


class Proposals:
    """The proposals for the images of a project, one file for an image.

    Args:
        folder: folder of the files, created with the first one.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def read(self, image_id: str) -> Proposal | None:
        """Returns the proposal for an image; None if there is none."""
        path = self._path(image_id)
        if not path.is_file():
            return None
        with np.load(path, allow_pickle=False) as content:
            return Proposal(content["label_map"], tuple(int(index) for index in content["marked"]))

    def add(self, image_id: str, label_map: np.ndarray, marked: Sequence[int], labels: Sequence[int]) -> Proposal:
        """Adds the result of a request; of a structure, the last proposal counts.

        Args:
            image_id: name of the image.
            label_map: label values of the prompted structures.
            marked: slices with prompts.
            labels: label values of the prompted structures.
        """
        before = self.read(image_id)
        merged = np.zeros_like(label_map) if before is None else before.label_map.copy()
        merged[np.isin(merged, labels)] = 0
        merged[label_map > 0] = label_map[label_map > 0]
        found = Proposal(merged, tuple(sorted({*marked, *(before.marked if before else ())})))
        with atomic_path(self._path(image_id)) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, label_map=found.label_map, marked=np.array(found.marked, int))
        return found

    def _path(self, image_id: str) -> Path:
        return self.folder / f"{hashlib.sha256(image_id.encode()).hexdigest()[:24]}.npz"


class SavedLabel(NamedTuple):
    """A label map that fits its image.

    Attributes:
        values: label values along the array axes of the image's file.
        view: slices of the image.
    """

    values: np.ndarray
    view: SliceView


def read_saved_label(image: str | Path, label: str | Path, values: Sequence[int]) -> SavedLabel:
    """Returns a label map after the checks that training makes.

    Args:
        image: file of the image.
        label: file of the label map.
        values: label values of the task.

    Raises:
        ValueError: if the label is on another grid than the image, such as another patient's, or has other values.
    """
    keys = ["image", "label"]
    read = Compose([load_image_transform(["image"]), load_label_transform(["label"]), EnsureChannelFirstd(keys)])
    found = CheckLabelMatchesImaged()(read({"image": str(image), "label": str(label)}))
    whole = whole_labels(np.asarray(found["label"])[0], Path(label).name)
    present = np.unique(whole)
    check_declared(present, np.isin(present, values), values, Path(label).name)
    rows, columns, depth = whole.shape
    affine = np.asarray(found["image"].meta["original_affine"], float)
    return SavedLabel(whole, SliceView((rows, columns, depth), affine, is_image_file(image)))


def confirmed_slices(saved: SavedLabel, proposal: Proposal | None, listed: Any = None) -> list[int] | None:
    """Returns the confirmed slices, as a datalist's `slices`; None: all.

    Args:
        saved: the label that is saved.
        proposal: what the model proposed; None: nothing.
        listed: slices that the person confirms besides those that were marked or changed, or `all`.

    Raises:
        ValueError: if a listed slice does not exist, or nothing is confirmed.
    """
    depth = saved.view.to_slices(saved.values).shape[2]
    if listed == ALL or (proposal is None and listed is None):
        return None
    if listed is not None and (
        not isinstance(listed, list) or not all(is_a(index, int) and 0 <= index < depth for index in listed)
    ):
        raise ValueError(f"Expected slices from 0 to {depth - 1} as `confirmed_slices`, or all, found {shown(listed)}.")
    confirmed = set(listed or ())
    if proposal is not None:
        changed = saved.view.to_slices(saved.values != proposal.label_map).any(axis=(0, 1))
        confirmed |= {*proposal.marked, *(int(index) for index in np.flatnonzero(changed))}
    if not confirmed:
        raise ValueError("Expected at least one confirmed slice, found none; mark one, or list it.")
    return sorted(confirmed)

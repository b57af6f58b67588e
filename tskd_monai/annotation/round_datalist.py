"""The datalist of a training round: confirmed slices, one in five labelled images for validation, all other images."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

from tskd_monai.annotation.confirmed import SavedLabel, read_saved_label
from tskd_monai.data.nifti import write_nifti
from tskd_monai.data.output_names import file_stem
from tskd_monai.data.planning.rules import VIEWS
from tskd_monai.data.volume_reader import VolumeReader

HELD_OUT = 5
"""One in so many labelled images serves validation."""


class LabelledImage(NamedTuple):
    """An image with a saved label.

    Attributes:
        image: file of the image.
        label: file of the label map.
        slices: confirmed slices; None: all.
    """

    image: Path
    label: Path
    slices: list[int] | None


def round_datalist(
    labelled: Sequence[LabelledImage],
    unlabelled: Sequence[Path],
    labels: Mapping[str, int],
    modality: str,
    folder: Path,
) -> dict[str, Any]:
    """Returns the datalist of a round, and writes the confirmed slices of its validation images as files.

    Validation reads whole label maps, so that an image of which slices are confirmed is reduced to these.

    Args:
        labelled: images with a saved label.
        unlabelled: images without one.
        labels: label value of each structure by name.
        modality: as in a datalist; empty: unknown.
        folder: folder of the files that are written.

    Raises:
        ValueError: see `check_enough`.
    """
    check_enough(labelled)
    held_out = held_out_names([one.image.name for one in labelled])
    values = [0, *labels.values()]
    training, validation = [], []
    for one in sorted(labelled):
        if one.image.name in held_out:
            validation.append(_whole_entry(one, values, folder))
        else:
            training.append(_entry(one))
    return {
        "name": "annotation",
        "modality": modality,
        "labels": {"0": "background", **{str(value): name for name, value in labels.items()}},
        "training": training,
        "validation": validation,
        "test": [],
        "unlabeled": [{"image": str(path), "case": file_stem(path)} for path in sorted(unlabelled)],
    }


def check_enough(labelled: Sequence[LabelledImage]) -> None:
    """Raises ValueError if fewer than two images are labelled."""
    if len(labelled) < 2:
        raise ValueError(
            f"Expected saved labels of at least 2 images, found {len(labelled)}: one image is held out to choose the "
            "best weights. Label another image."
        )


def held_out_names(names: Sequence[str]) -> set[str]:
    """Returns the names of the images that serve validation, at least one of them; the choice is stable as more come.

    Args:
        names: names of the labelled images.
    """
    ranked = sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    return set(ranked[: max(1, len(ranked) // HELD_OUT)])


def _entry(one: LabelledImage) -> dict[str, Any]:
    entry: dict[str, Any] = {"image": str(one.image), "label": str(one.label), "case": file_stem(one.image)}
    return entry if one.slices is None else {**entry, "slices": one.slices}


def _whole_entry(one: LabelledImage, values: Sequence[int], folder: Path) -> dict[str, Any]:
    """Returns the entry of an image that serves validation, reduced to its confirmed slices."""
    if one.slices is None:
        return _entry(one)
    saved = read_saved_label(one.image, one.label, values)
    voxels, _ = VolumeReader().read(one.image)
    image, label = folder / one.image.name, folder / f"label_{one.image.name}"
    for path, array in ((image, np.asarray(voxels, np.float32)), (label, saved.values.astype(np.uint16))):
        write_nifti(path, *reduced(saved, array, one.slices))
    return {"image": str(image), "label": str(label), "case": file_stem(one.image)}


def reduced(saved: SavedLabel, array: np.ndarray, slices: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Returns some slices of a volume as a volume in radiologists' view, and its affine.

    The spacing stays, as if the slices were adjacent: networks see one slice at a time.
    """
    view = saved.view
    turn = ornt_transform(io_orientation(view.affine), axcodes2ornt(VIEWS[view.slice_axis]))
    affine = view.affine @ inv_ornt_aff(turn, view.shape)
    return np.ascontiguousarray(view.to_slices(array)[..., list(slices)]), affine

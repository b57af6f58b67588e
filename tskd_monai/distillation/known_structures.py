"""Labels of the structures that a student knows, in cases in which they were not drawn: its own predictions.

A new class is learned from cases in which perhaps nothing else was drawn. Without the known classes there, the network
would unlearn them. Where such a case has neither a drawn structure nor a voxel to ignore, the student's prediction of a
structure that was not drawn is taken as its label; what was drawn is never changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tskd_monai.data.datalist import case_names
from tskd_monai.data.drawn_structures import DRAWN
from tskd_monai.data.nifti import write_nifti
from tskd_monai.data.output_names import segmentation_path
from tskd_monai.data.task import Task
from tskd_monai.evaluation.label_maps import load_label_map, load_prediction
from tskd_monai.evaluation.metrics import SECOND_READER
from tskd_monai.files.atomic import atomic_path
from tskd_monai.files.checksum import file_sha256


def lacking(entries: Sequence[Mapping[str, Any]], known: Task) -> list[dict[str, Any]]:
    """Returns the entries in which a structure of a student was not drawn."""
    names = set(known.foreground.values())
    return [dict(entry) for entry in entries if DRAWN in entry and not names <= set(entry[DRAWN])]


def completed(
    entries: Sequence[Mapping[str, Any]], known: Task, task: Task, predictions: Path, folder: Path
) -> list[dict[str, Any]]:
    """Returns the entries with label maps in which the student's structures are complete.

    Args:
        entries: labelled entries of the extended task's datalist.
        known: task of the student.
        task: extended task.
        predictions: folder of the student's segmentations of the entries that `lacking` returns.
        folder: folder of the written label maps.

    Raises:
        FileNotFoundError: when a prediction is missing.
        ValueError: when a prediction is not on the grid of its label.
    """
    short = lacking(entries, known)
    paths = {
        entry["image"]: segmentation_path(predictions, name, known, image=entry["image"])
        for entry, name in zip(short, case_names(short), strict=True)
    }
    return [
        _completed(entry, known, task, paths[entry["image"]], folder) if entry["image"] in paths else dict(entry)
        for entry in entries
    ]


def _completed(entry: Mapping[str, Any], known: Task, task: Task, prediction: Path, folder: Path) -> dict[str, Any]:
    label = load_label_map(Path(entry["label"]))
    found = load_prediction(prediction, label, known.foreground).array
    missing = [value for value, name in known.foreground.items() if name not in entry[DRAWN]]
    array = np.where((label.array == 0) & np.isin(found, missing), found, label.array)
    array = array.astype(np.uint8 if array.max() <= np.iinfo(np.uint8).max else np.uint16)
    digest = hashlib.sha256(f"{file_sha256(Path(entry['label']))} {file_sha256(prediction)} {missing}".encode())
    path = folder / f"{digest.hexdigest()[:16]}{'.png' if label.affine is None else '.nii.gz'}"
    folder.mkdir(parents=True, exist_ok=True)
    if label.affine is None:
        with atomic_path(path) as temporary:
            Image.fromarray(array[..., 0]).save(temporary, format="PNG")
    else:
        write_nifti(path, array, label.affine)
    drawn = {*entry[DRAWN], *known.foreground.values()}
    kept = {key: value for key, value in entry.items() if key not in (DRAWN, SECOND_READER)}
    partly = {DRAWN: sorted(drawn)} if drawn < set(task.foreground.values()) else {}
    return {**kept, "label": str(path.resolve()), **partly}

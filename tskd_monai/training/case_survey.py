"""What the cases of a section hold, read one after the other as training reads them and kept nowhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from tskd_monai.data.task import Task
from tskd_monai.files.redaction import redact_paths

Preprocessing = Callable[[Mapping[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True)
class CaseSurvey:
    """The sum of a section's cases.

    Attributes:
        cases: entries of the section, readable or not.
        slices: of the readable ones that training uses.
        held_bytes: of their images and labels in memory.
        class_voxels: labelled voxels of each network class, (K,); None where no labels are read.
        class_slices: slices that show each class, (K,).
        class_cases: cases that show each class, (K,).
        unreadable: one line for each entry that cannot be read, with its case and the reason.
    """

    cases: int
    slices: int
    held_bytes: int
    class_voxels: np.ndarray | None
    class_slices: np.ndarray
    class_cases: np.ndarray
    unreadable: tuple[str, ...]


def survey_cases(entries: Sequence[Mapping[str, Any]], preprocessing: Preprocessing, task: Task) -> CaseSurvey:
    """Returns what a section holds; an entry that cannot be read is noted and the others are looked at.

    Args:
        entries: of a datalist's section; one with `slices` counts with these slices alone.
        preprocessing: from an entry to arrays (C, H, W, D), `image` and perhaps `label` as network classes.
        task: of the study.
    """
    slices = held_bytes = 0
    shown = {name: np.zeros(task.num_classes, dtype=np.int64) for name in ("voxels", "slices", "cases")}
    labelled, unreadable = False, []
    for entry in tqdm(entries, desc="Reading", unit="case"):
        try:
            arrays = _read(entry, preprocessing)
        except Exception as error:  # whatever a damaged file makes a reader raise is the finding
            paths = [entry[key] for key in ("image", "label") if entry.get(key)]
            unreadable.append(f"case {entry.get('case')}: {redact_paths(_reason(error), paths)}")
            continue
        slices += arrays["image"].shape[-1]
        held_bytes += sum(array.nbytes for array in arrays.values())
        if "label" in arrays:
            labelled = True
            counts = _class_counts(arrays["label"], task.num_classes)
            shown["voxels"] += counts.sum(axis=1)
            shown["slices"] += (counts > 0).sum(axis=1)
            shown["cases"] += (counts > 0).any(axis=1)
    voxels = shown["voxels"] if labelled else None
    return CaseSurvey(len(entries), slices, held_bytes, voxels, shown["slices"], shown["cases"], tuple(unreadable))


def _read(entry: Mapping[str, Any], preprocessing: Preprocessing) -> dict[str, np.ndarray]:
    """Returns the arrays (C, H, W, D) of an entry's slices."""
    item = preprocessing(dict(entry))
    arrays = {key: np.asarray(item[key]) for key in ("image", "label") if hasattr(item.get(key), "shape")}
    depth = arrays["image"].shape[-1]
    chosen = list(entry.get("slices", range(depth)))
    if any(not 0 <= index < depth for index in chosen):
        raise ValueError(f"Expected slices of 0 to {depth - 1}, found {chosen}.")
    return {key: array[..., chosen] for key, array in arrays.items()}


def _class_counts(label: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns the voxels of each class on each slice, (K, D), of a label (1, H, W, D)."""
    planes = np.moveaxis(label[0], -1, 0).astype(np.int64)
    return np.stack([np.bincount(plane.ravel(), minlength=num_classes)[:num_classes] for plane in planes], axis=1)


def _reason(error: BaseException) -> str:
    """Returns the message of the first error: MONAI wraps what a transform raises."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error) or type(error).__name__

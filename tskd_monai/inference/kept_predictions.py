"""Predictions that are kept with their SHA-256, and scored again later by the present metrics and post-processing.

Post-processing belongs to the score, so that it is the same for all methods: keep the classes of networks unfiltered.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tskd_monai.data.datalist import case_names
from tskd_monai.data.output_names import SEGMENTATION_POSTFIX, shortened
from tskd_monai.evaluation.label_maps import load_prediction, load_reference
from tskd_monai.evaluation.metrics import case_metrics
from tskd_monai.files.atomic import atomic_path
from tskd_monai.files.checksum import file_sha256
from tskd_monai.transforms.labels import KeepLargestComponentsd

LABEL_MAPS = f"*_{SEGMENTATION_POSTFIX}.*"


def keep_predictions(made: Path, folder: Path) -> dict[str, str]:
    """Copies the label maps of a run to a folder, created if missing.

    Args:
        made: output folder of the run.
        folder: folder of the copies; files of the same name are replaced.

    Returns:
        File name -> SHA-256.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kept = {}
    for path in sorted(made.glob(LABEL_MAPS)):
        with atomic_path(folder / path.name) as temporary:
            shutil.copyfile(path, temporary)
        kept[path.name] = file_sha256(folder / path.name)
    return kept


def score_kept(
    entries: Sequence[Mapping[str, Any]],
    labels: Mapping[int, str],
    kept: Mapping[str, str],
    folder: Path,
    largest_component: bool = False,
) -> list[dict[str, Any]]:
    """Returns the metrics of kept predictions: a row of `case_metrics` per image and class, with its `case`.

    Args:
        entries: entries of a section of a datalist that are scored.
        labels: value -> name of the foreground labels.
        kept: file name -> SHA-256, of `keep_predictions`.
        folder: folder of the predictions.
        largest_component: whether only the largest component of every class is scored.

    Raises:
        FileNotFoundError: if an image has no prediction.
        ValueError: if a file is not the one that was kept.
    """
    clean = KeepLargestComponentsd("pred", tuple(labels) if largest_component else ())
    files = {name.split(f"_{SEGMENTATION_POSTFIX}.")[0]: folder / name for name in kept}
    rows = []
    for entry, name in zip(entries, case_names(entries), strict=True):
        path = files.get(shortened(name))
        if path is None or not path.is_file():
            raise FileNotFoundError(f"Expected the prediction of {name} in {folder}, found none; predict it again.")
        if (found := file_sha256(path)) != kept[path.name]:
            raise ValueError(
                f"Expected the prediction {path} with the SHA-256 {kept[path.name]}, with which it was kept, found "
                f"{found}; restore the file or predict it again."
            )
        reference = load_reference(Path(entry["label"]), labels)
        predicted = torch.as_tensor(load_prediction(path, reference, labels).array)
        label_map = clean({"pred": predicted[None]})["pred"][0].numpy()
        of_case = case_metrics(label_map, reference.array, reference.spacing, labels)
        rows += [{"case": entry["case"], **row} for row in of_case]
    return rows

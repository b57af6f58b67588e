"""Scores of the segmentations that a run has written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tskd_monai.data.datalist import LABEL_KEYS, case_names, load_section
from tskd_monai.data.drawn_structures import DRAWN
from tskd_monai.data.output_names import NIFTI, segmentation_path
from tskd_monai.data.task import Task
from tskd_monai.evaluation.metrics import evaluate_cases


def score_segmentations(
    task: Task,
    datalist: str | Path,
    section: str,
    output_dir: str | Path,
    fold: int | None = None,
    output_format: str = NIFTI,
) -> dict[str, Any]:
    """Compares the segmentations in `output_dir` with the labels of a section, on the grid of the labels.

    Writes `metrics.csv` (a row per case and class) and `metrics.json` to the same folder and returns the content of the
    latter. If entries have a `second_reader`, the two readers are compared too, as a reference for the Dice.

    Args:
        task: task of the segmentations.
        datalist: datalist of the images.
        section: section that was segmented.
        output_dir: folder of the segmentations.
        fold: fold of the datalist.
        output_format: format of the segmentations.
    """
    entries = load_section(datalist, section, fold)
    cases = [
        {**_labels(entry), "prediction": segmentation_path(output_dir, name, task, output_format, entry["image"])}
        for entry, name in zip(entries, case_names(entries), strict=True)
    ]
    return evaluate_cases(cases, task.foreground, Path(output_dir) / "metrics.csv", ignore=task.ignore)


def _labels(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the patient, the label maps and the drawn structures of an entry."""
    return {key: entry[key] for key in ("case", *LABEL_KEYS, DRAWN) if key in entry}

"""The cases of an evaluation with their files and metrics, sorted by Dice, lowest first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tskd_monai.data.datalist import case_names
from tskd_monai.data.output_names import NIFTI, segmentation_path
from tskd_monai.data.task import Task
from tskd_monai.evaluation.summary import Row, finite_mean


@dataclass(frozen=True)
class EvaluatedCase:
    """One image with its label, its segmentation and their metrics.

    Attributes:
        name: name of the case, unique in its section.
        image: file or folder of the image.
        label: file of the label.
        prediction: file of the segmentation.
        rows: metrics, one row for each foreground class.
    """

    name: str
    image: Path
    label: Path
    prediction: Path
    rows: Sequence[Row]

    @property
    def dice(self) -> float:
        """Mean over the classes; NaN if neither label nor prediction contains any."""
        return finite_mean(row["dice"] for row in self.rows)


def evaluated_cases(
    task: Task,
    entries: Sequence[Mapping[str, Any]],
    rows: Sequence[Row],
    output_dir: str | Path,
    output_format: str = NIFTI,
) -> list[EvaluatedCase]:
    """Returns the cases of a section, the lowest Dice first and those without a Dice last.

    Args:
        task: task of the datalist.
        entries: entries of the section that was evaluated.
        rows: rows of its metrics.csv, in the order of the entries.
        output_dir: folder of the segmentations.
        output_format: format of the segmentations.

    Raises:
        ValueError: if the metrics are not those of the section.
    """
    count = len(task.foreground)
    expected = [(str(entry["case"]), label) for entry in entries for label in task.foreground]
    if [(row["case"], row["label"]) for row in rows] != expected:
        raise ValueError(
            f"Expected metrics of the section's {len(entries)} images with {count} classes each, in its order, found "
            f"{len(rows)} rows of other cases or classes; evaluate the section again."
        )
    cases = [
        EvaluatedCase(
            name,
            Path(entry["image"]),
            Path(entry["label"]),
            segmentation_path(output_dir, name, task, output_format, entry["image"]),
            rows[index * count : (index + 1) * count],
        )
        for index, (entry, name) in enumerate(zip(entries, case_names(entries), strict=True))
    ]
    return sorted(cases, key=lambda case: math.inf if math.isnan(case.dice) else case.dice)

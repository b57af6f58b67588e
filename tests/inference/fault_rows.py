"""The rows of the fault matrix: an input, its outcome, and the words that state it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

EXACT, REPAIRED, REFUSED = "exact", "repaired", "refused"


@dataclass(frozen=True)
class Given:
    """An input on disk, and the true positions of its voxels.

    Attributes:
        path: value of `--image`.
        affine: voxel index to RAS mm of the scan, sheared for a tilt.
        shape: number of scanned voxels along the axes of the affine.
        overrides: options of the run.
        output_dir: output folder of the run; beside the input unless the row tests it.
    """

    path: Path
    affine: np.ndarray = field(default_factory=lambda: np.eye(4))
    shape: tuple[int, ...] = (1, 1, 1)
    overrides: dict[str, Any] = field(default_factory=dict)
    output_dir: Path | None = None


Make = Callable[[Path], Given]


@dataclass(frozen=True)
class Row:
    """One line of the matrix.

    Attributes:
        name: name of the input.
        outcome: `exact`, `repaired` or `refused`.
        makes: functions that write it into a folder; several variants share one outcome.
        message: words of the warning or of the error.
        modality: `MR` or `CT`: the task to run.
        dice: minimum Dice of each class with the analytic mask, on the voxels that were scanned; None where position or
            content is unknown.
        seg: whether a DICOM SEG is written too.
        empty: whether the network finds nothing.
    """

    name: str
    outcome: str
    makes: Sequence[Make]
    message: str = ""
    modality: str = "MR"
    dice: float | None = 0.999
    seg: bool = False
    empty: bool = False

    @property
    def line(self) -> str:
        """Returns the row of the table in the documents."""
        return f"| {self.name} | {self.outcome} | {self.message} |"

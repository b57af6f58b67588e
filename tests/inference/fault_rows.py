"""The rows of the fault matrix: an input, what becomes of it, and the words that say so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

EXACT, REPAIRED, REFUSED = "exact", "repaired", "refused"


@dataclass(frozen=True)
class Given:
    """An input on disk, and where its voxels truly lie.

    Attributes:
        path: what `--image` names.
        affine: of the scanned voxels to RAS mm, sheared for a tilt.
        shape: number of scanned voxels along the axes of the affine.
        overrides: options of the run.
        output_dir: where the run writes; beside the input unless the row is about it.
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
        name: what is sent.
        outcome: `exact`, `repaired` or `refused`.
        makes: write it into a folder; several variants have one outcome.
        message: words of the notice or of the refusal.
        modality: `MR` or `CT`: the task that is run.
        dice: least Dice of each class with the analytic mask, on the voxels that were scanned; None where place or
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
        """The row in the documents' table."""
        return f"| {self.name} | {self.outcome} | {self.message} |"

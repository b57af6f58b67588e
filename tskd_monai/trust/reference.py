"""What is known of the training patients, to which the signals of a case are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tskd_monai.trust.features import FeatureModel, fit_features
from tskd_monai.trust.shape import Shape
from tskd_monai.trust.signals import CaseSignals, StructureSignals

LARGEST_Z = 10.0
SMALLEST_DEVIATION = {"volume": 0.1, "position": 0.02, "extent": 0.1}
"""Volume and extent as logarithms, positions as fractions of the image's sides."""
SIGNALS = ("disagreement", "entropy", "distance", "volume", "second part")
"""Signals from which the Dice is predicted, in this order. The others state what is wrong, not how much of it: a
structure that is cut off by the last slice is segmented no worse."""


@dataclass(frozen=True)
class Normal:
    """Mean and standard deviation over the training patients."""

    mean: float
    deviation: float

    def z(self, value: float) -> float:
        """Returns the distance from the mean in standard deviations, at most 10."""
        return min(abs(value - self.mean) / self.deviation, LARGEST_Z)


@dataclass(frozen=True)
class StructureReference:
    """A structure in the training patients.

    Attributes:
        present: fraction of the training patients that have it.
        volume: logarithm of the volume.
        rows: position of the centroid along the rows, as a fraction; likewise `columns` and `slices`.
        columns: see `rows`.
        slices: see `rows`.
        extent: logarithm of the thickness along the slices.
        cut: largest `Shape.cut`.
        border: largest `Shape.border`.
    """

    present: float
    volume: Normal
    rows: Normal
    columns: Normal
    slices: Normal
    extent: Normal
    cut: float
    border: float

    def z(self, shape: Shape) -> dict[str, float]:
        """Returns how unusual volume, position and extent of a structure are; 10 each if it is not found."""
        if not shape.volume:
            return dict.fromkeys(("volume", "position", "extent"), LARGEST_Z)
        places = zip((self.rows, self.columns, self.slices), shape.position, strict=True)
        return {
            "volume": self.volume.z(float(np.log(shape.volume))),
            "position": max(normal.z(place) for normal, place in places),
            "extent": self.extent.z(float(np.log(shape.extent))),
        }


@dataclass(frozen=True)
class Reference:
    """The training patients.

    Attributes:
        patients: their number.
        features: Gaussian of the features of their slices.
        structures: by name.
        ranges: lowest and highest `field_of_view`, `slice_distance` and `length`; those of volumes only if there are.
    """

    patients: int
    features: FeatureModel
    structures: Mapping[str, StructureReference]
    ranges: Mapping[str, tuple[float, float]]

    def row(self, name: str, signals: StructureSignals, distance: float) -> np.ndarray:
        """Returns the signals of a structure from which its Dice is predicted, (S,), in the order of `SIGNALS`.

        Args:
            name: name of the structure.
            signals: its signals.
            distance: distance of the case's features.
        """
        volume = float(np.log1p(self.structures[name].z(signals.shape)["volume"]))
        far = float(np.log1p(min(distance, LARGEST_Z)))
        return np.array([signals.disagreement, signals.entropy, far, volume, signals.shape.second_part])


def fit_reference(cases: Sequence[CaseSignals], labelled: Sequence[Mapping[str, Shape]]) -> Reference:
    """Returns the reference of training patients.

    Args:
        cases: signals of each image.
        labelled: shape of each structure in the image's label, in the same order.

    Raises:
        ValueError: with fewer than two images.
    """
    lengths = {
        name: [value for case in cases if (value := getattr(case, name)) is not None]
        for name in ("field_of_view", "slice_distance", "length")
    }
    return Reference(
        patients=len(cases),
        features=fit_features([case.descriptors for case in cases]),
        structures={name: _structure([shapes[name] for shapes in labelled]) for name in labelled[0]},
        ranges={name: (min(values), max(values)) for name, values in lengths.items() if values},
    )


def _structure(shapes: Sequence[Shape]) -> StructureReference:
    found = [shape for shape in shapes if shape.volume]
    rows, columns, slices = (
        _normal([shape.position[axis] for shape in found], SMALLEST_DEVIATION["position"]) for axis in range(3)
    )
    return StructureReference(
        present=len(found) / len(shapes),
        volume=_normal([float(np.log(shape.volume)) for shape in found], SMALLEST_DEVIATION["volume"]),
        rows=rows,
        columns=columns,
        slices=slices,
        extent=_normal([float(np.log(shape.extent)) for shape in found], SMALLEST_DEVIATION["extent"]),
        cut=max((shape.cut for shape in found), default=0.0),
        border=max((shape.border for shape in found), default=0.0),
    )


def _normal(values: Sequence[float], smallest: float) -> Normal:
    """Returns mean and standard deviation, the latter widened for few patients as in a prediction interval."""
    if not values:
        return Normal(0.0, 1.0)
    number = len(values)
    deviation = float(np.std(values, ddof=1)) if number > 1 else 0.0
    return Normal(float(np.mean(values)), max(deviation, smallest) * float(np.sqrt(1 + 1 / number)))

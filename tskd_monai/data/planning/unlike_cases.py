"""Unusual cases of a dataset: grid, range of values, volumes of the classes, absent classes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles

from tskd_monai.data.fitness import ImageExtent, image_extent, short_number, unlike_most
from tskd_monai.data.planning.fingerprint import Fingerprint, is_blank

OUTLIER_Z = 3.5
"""Of the robust z-score 0.6745 (x - median) / MAD: Iglewicz and Hoaglin, How to Detect and Handle Outliers, 1993."""
MAD_TO_SD = 0.6745
FEWEST_TO_COMPARE = 5
"""Among fewer values none is called an outlier."""
VOLUME_FACTOR = 1.5
"""Smallest factor between an outlier and the median: with a small MAD, every value would be an outlier."""
VALUES_FACTOR = 3.0
"""The same for the range of values of an image, which varies with the gain."""
USUAL_FRACTION = 0.8
"""Fraction of the cases that defines what is usual."""


@dataclass(frozen=True)
class SurveyedCase:
    """A readable image and its label.

    Attributes:
        name: name of the case, with that of its file if the case has several.
        found: fingerprint.
        extent: field of view, spacing and range of values.
        axis: slice axis; None for 2D images.
        volumes: volume of each foreground class that was drawn by label value, mL (pixels for 2D images); None without
            a label.
        labelled_slices: number of labelled slices.
        shown_slices: number of labelled slices with a foreground class.
        partly: whether only some slices are labelled; volumes are of these slices.
    """

    name: str
    found: Fingerprint
    extent: ImageExtent
    axis: int | None
    volumes: Mapping[int, float] | None
    labelled_slices: int = 0
    shown_slices: int = 0
    partly: bool = False

    @classmethod
    def of(
        cls, name: str, found: Fingerprint, slices: Sequence[int] | None, labels: Mapping[int, str], axis: int | None
    ) -> SurveyedCase:
        """Returns the description of an image.

        Args:
            name: name of the case.
            found: fingerprint.
            slices: labelled slices; None: all, if there is a label.
            labels: value -> name of the foreground classes.
            axis: slice axis; None for 2D images.
        """
        extent = image_extent(found.shape, found.spacing, found.value_range, axis)
        if not found.class_counts:
            return cls(name, found, extent, axis, None)
        depth = found.shape[2 if axis is None else axis]
        known = [index for index in range(depth) if slices is None or index in set(slices)]
        counts = found.class_counts[2 if axis is None else axis][known]
        voxel = 1.0 if axis is None else math.prod(found.spacing) / 1000
        volumes = {
            value: float(counts[:, index].sum()) * voxel
            for index, value in enumerate(sorted(labels), start=1)
            if index not in found.undrawn
        }
        shown = int((counts[:, 1:].sum(axis=1) > 0).sum())
        return cls(name, found, extent, axis, volumes, len(known), shown, slices is not None)


@dataclass(frozen=True)
class Unlike:
    """Differences of images from most others.

    Attributes:
        texts: one text for each difference, by the name of the case.
        volumes: (name of the case, label value) -> multiple of the median; 0 for an absent class.
    """

    texts: Mapping[str, Sequence[str]]
    volumes: Mapping[tuple[str, int], float]


def unlike_cases(cases: Sequence[SurveyedCase], labels: Mapping[int, str], axis: int | None) -> Unlike:
    """Returns how images of a dataset differ from most others; volumes of partly labelled images are not compared.

    Args:
        cases: cases of all sections.
        labels: value -> name of the foreground classes.
        axis: slice axis; None for 2D images.
    """
    texts: dict[str, list[str]] = {case.name: [] for case in cases}
    unit = "pixels" if axis is None else "mm"
    if cases:
        for name, differences in unlike_most({case.name: case.extent for case in cases}, unit).items():
            texts[name] += [text.replace(", in training ", ", usually ") for text in differences]
    spans = {case.name: case.extent.values[1] - case.extent.values[0] for case in cases}
    ratios = outliers(spans, VALUES_FACTOR)
    for case in cases:
        low, high = case.extent.values
        if is_blank(case.found):
            texts[case.name].append(f"blank: one value only ({short_number(low)})")
        elif case.name in ratios:
            texts[case.name].append(
                f"values {short_number(low)} to {short_number(high)}, a range of {times(ratios[case.name])}"
            )
    volumes = _unlike_volumes(cases, labels)
    sizes = {case.name: case.volumes or {} for case in cases}
    for (name, value), ratio in volumes.items():
        size = f"{short_number(sizes[name].get(value, 0.0))} {'pixels' if axis is None else 'mL'}"
        texts[name].append(f"{labels[value]} of {size}, {times(ratio)}" if ratio else f"no {labels[value]}")
    return Unlike({name: found for name, found in texts.items() if found}, volumes)


def outliers(values: Mapping[str, float], factor: float) -> dict[str, float]:
    """Returns outliers among positive values, as multiples of the median, by name.

    An outlier has a robust z-score of the logarithm beyond 3.5, and differs from the median by a factor. If more than a
    fifth of the values do, the distribution has several modes: then the interdecile range, extended by the factor, is
    not outlying either.

    Args:
        values: values by name; those of 0 and below are ignored.
        factor: smallest factor between an outlier and the median, above 1.
    """
    logs = {name: math.log(value) for name, value in values.items() if value > 0}
    if len(logs) < FEWEST_TO_COMPARE:
        return {}
    middle = median(logs.values())
    mad = median(abs(value - middle) for value in logs.values())
    far = max(math.log(factor), OUTLIER_Z * mad / MAD_TO_SD)
    low, high = middle - far, middle + far
    found = [name for name, value in logs.items() if not low <= value <= high]
    if len(found) > (1 - USUAL_FRACTION) * len(logs):  # several modes, such as two scanners
        tenth, *_, last = quantiles(logs.values(), n=10, method="inclusive")
        low, high = min(low, tenth - math.log(factor)), max(high, last + math.log(factor))
    return {name: math.exp(value - middle) for name, value in logs.items() if not low <= value <= high}


def times(ratio: float) -> str:
    """Returns a multiple of the median as text."""
    return f"{ratio:.2g} times the median" if ratio < 100 else f"{ratio:.0f} times the median"


def _unlike_volumes(cases: Sequence[SurveyedCase], labels: Mapping[int, str]) -> dict[tuple[str, int], float]:
    labelled = {case.name: case.volumes for case in cases if case.volumes is not None and not case.partly}
    found: dict[tuple[str, int], float] = {}
    for value in labels:
        sizes = {name: volumes[value] for name, volumes in labelled.items() if value in volumes}
        found |= {(name, value): ratio for name, ratio in outliers(sizes, VOLUME_FACTOR).items()}
        absent = [name for name, size in sizes.items() if not size]
        if len(sizes) >= FEWEST_TO_COMPARE and len(absent) <= (1 - USUAL_FRACTION) * len(sizes):
            found |= {(name, value): 0.0 for name in absent}
    return found

"""Paired difference between two methods on the same patients."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

from tskd_monai.evaluation.intervals import RESAMPLES, bootstrap_mean_interval
from tskd_monai.evaluation.summary import class_means, read_metrics

logger = logging.getLogger(__name__)

FEW_PATIENTS = 6  # below six, the smallest two-sided p of a sign test is above 0.05 whatever the data


@dataclass(frozen=True)
class PairedComparison:
    """Difference first - second of the Dice per patient.

    Attributes:
        patients: number of patients with a value under both methods.
        mean: mean difference.
        median: median difference.
        interval_95: percentile bootstrap interval of the mean difference; (nan, nan) for one patient.
        first_better: number of patients on whom the first method is strictly better.
        second_better: number of patients on whom the second method is strictly better.
    """

    patients: int
    mean: float
    median: float
    interval_95: tuple[float, float]
    first_better: int
    second_better: int

    def sentence(self) -> str:
        """Returns the comparison as sentences, with a caveat if there are few patients."""
        low, high = self.interval_95
        text = f"Mean difference in Dice {self.mean:+.3f}"
        if not math.isnan(low):
            text += f" (95 % bootstrap interval {low:+.3f} to {high:+.3f})"
        text += (
            f", median {self.median:+.3f}; higher on {self.first_better}, lower on {self.second_better} "
            f"of {count_of_patients(self.patients)}."
        )
        if self.patients < FEW_PATIENTS:
            return f"{text} n = {count_of_patients(self.patients)}: the interval is not informative."
        if low <= 0 <= high:
            return f"{text} The interval includes zero: no difference is shown."
        return text


def compare(
    first: Mapping[str, float], second: Mapping[str, float], seed: int = 0, resamples: int = RESAMPLES
) -> PairedComparison:
    """Returns the paired difference `first - second`, with patients as the unit.

    Args:
        first: case -> Dice (mean over the classes) of the first method.
        second: the same for the second method, on the same cases.
        seed: seed of the bootstrap.
        resamples: number of bootstrap draws.

    Raises:
        ValueError: if the cases differ or no case has a value under both methods.
    """
    if set(first) != set(second):
        raise ValueError(
            "Expected both methods on the same cases, found only in the first "
            f"{sorted(set(first) - set(second))}, only in the second {sorted(set(second) - set(first))}."
        )
    differences = [first[case] - second[case] for case in first]
    kept = [difference for difference in differences if not math.isnan(difference)]
    if not kept:
        raise ValueError("Expected at least one case with a Dice under both methods, found none.")
    if len(kept) < len(differences):
        logger.warning("%d cases have no Dice under one of the methods and are left out.", len(differences) - len(kept))
    return PairedComparison(
        patients=len(kept),
        mean=fmean(kept),
        median=median(kept),
        interval_95=bootstrap_mean_interval(kept, seed, resamples),
        first_better=sum(difference > 0 for difference in kept),
        second_better=sum(difference < 0 for difference in kept),
    )


def compare_metrics(first_csv: Path, second_csv: Path, seed: int = 0) -> PairedComparison:
    """Returns `compare` for the metrics.csv of two methods."""
    return compare(class_means(read_metrics(first_csv)), class_means(read_metrics(second_csv)), seed)


def count_of_patients(number: int) -> str:
    """Returns "1 patient" or "3 patients"."""
    return f"{number} patient" if number == 1 else f"{number} patients"

"""Statistics of a suite's methods: patients are the unit, and seeds are averaged within a patient first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
from scipy.stats import permutation_test

from tskd_monai.evaluation.comparison import PairedComparison, compare
from tskd_monai.evaluation.intervals import RESAMPLES, bootstrap_mean_interval
from tskd_monai.evaluation.summary import class_means, finite_mean

Result = Mapping[str, Any]
Patients = Mapping[str, float]


def patient_means(results: Sequence[Result], metric: str) -> dict[str, float]:
    """Returns patient -> mean over seeds of the mean of `metric` over the classes; undefined values are left out."""
    values: dict[str, list[float]] = {}
    for result in results:
        rows = [{**row, metric: math.nan if row[metric] is None else row[metric]} for row in result["rows"]]
        for case, value in class_means(rows, metric).items():
            values.setdefault(case, []).append(value)
    return {case: finite_mean(of_case) for case, of_case in values.items()}


def paired(first: Patients, second: Patients) -> PairedComparison:
    """Returns the paired difference of two methods on the patients that both have: folds may still be missing."""
    both = sorted(first.keys() & second.keys())
    return compare({case: first[case] for case in both}, {case: second[case] for case in both})


def sign_flip_p(first: Patients, second: Patients, seed: int = 0) -> float:
    """Returns the two-sided p of a paired difference of zero, by flipping the sign of each patient's difference.

    Source: Fisher's randomisation test for paired samples, exact where there are few patients (scipy).
    """
    both = sorted(first.keys() & second.keys())
    differences = np.array([first[case] - second[case] for case in both])
    result = permutation_test(
        (differences,),
        lambda values, axis: np.mean(values, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Returns Holm's adjusted p values, under the same names (Holm 1979, step-down)."""
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = largest
    return adjusted


@dataclass(frozen=True)
class GapClosed:
    """The fraction of the teacher's lead over a student from scratch that a method's student closes.

    Attributes:
        gap: teacher minus scratch, mean over patients.
        gap_interval: its 95 % bootstrap interval.
        fraction: (method - scratch) / (teacher - scratch), of the means over patients.
        fraction_interval: its 95 % bootstrap interval, patients drawn together.
    """

    gap: float
    gap_interval: tuple[float, float]
    fraction: float
    fraction_interval: tuple[float, float]


def gap_closed(method: Patients, scratch: Patients, teacher: Patients, seed: int = 0) -> GapClosed:
    """Returns the fraction of the gap that a method closes, on the patients that all three have."""
    cases = sorted(method.keys() & scratch.keys() & teacher.keys())
    gains = np.array([method[case] - scratch[case] for case in cases])
    gaps = np.array([teacher[case] - scratch[case] for case in cases])
    generator = np.random.default_rng(seed)
    draws = generator.integers(len(cases), size=(RESAMPLES, len(cases)))
    with np.errstate(divide="ignore", invalid="ignore"):
        fractions = gains[draws].mean(axis=1) / gaps[draws].mean(axis=1)
        fraction = float(gains.mean() / gaps.mean())
    low, high = np.nanpercentile(fractions, [2.5, 97.5])
    return GapClosed(fmean(gaps.tolist()), bootstrap_mean_interval(gaps.tolist(), seed), fraction, (low, high))

"""Tests of paired differences between methods, and the fraction of a teacher's lead that a student closes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from scipy.stats import permutation_test

from tskd_monai.evaluation.intervals import RESAMPLES, bootstrap_mean_interval

Patients = Mapping[str, float]
"""Patient -> score."""


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

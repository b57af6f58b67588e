"""Bootstrap interval of a mean; patients are resampled."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RESAMPLES = 10_000
BLOCK = 1_000
"""Resamples drawn at once, which bounds the memory; the draws are those of one resample after another."""


def bootstrap_mean_interval(
    values: Sequence[float], seed: int = 0, resamples: int = RESAMPLES, confidence: float = 0.95
) -> tuple[float, float]:
    """Returns the percentile bootstrap interval of the mean of `values`.

    One value is one patient: average slices or images of a patient first, since they are not independent.

    Args:
        values: one finite number per patient.
        seed: seed of the generator; the same seed gives the same interval.
        resamples: number of draws with replacement.
        confidence: fraction of the resampled means inside the interval, in (0, 1).

    Returns:
        (low, high); (nan, nan) below two patients, where nothing can be resampled.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13 (percentile interval).
    """
    data = np.asarray(values, dtype=np.float64)
    if not np.isfinite(data).all():
        raise ValueError(f"Expected finite values, found {data.tolist()}; leave out patients without a value.")
    if data.size < 2:
        return float("nan"), float("nan")
    generator = np.random.default_rng(seed)
    blocks = [min(BLOCK, resamples - start) for start in range(0, resamples, BLOCK)]
    means = np.concatenate([data[generator.integers(data.size, size=(rows, data.size))].mean(1) for rows in blocks])
    tail = 50 * (1 - confidence)
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)

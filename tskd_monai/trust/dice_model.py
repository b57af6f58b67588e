"""Predicted Dice of a structure: ridge regression on its signals, with a conformal interval split by patient.

The regression is the same for all structures; their signals are relative to the training patients. Its errors are those
on patients that were left out of it. The interval is that of hierarchical conformal prediction (Dunn, Wasserman and
Ramdas, 2023): each patient has the same weight, whatever the number of its copies and structures, and the next patient,
who is not known, has that weight too, at infinity. With n patients there is an interval of 90 % from n = 9 on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.9
RIDGE = 1.0
SPREAD = 0.1
"""Errors are relative to 1 - predicted Dice + 0.1: a good segmentation varies less."""


@dataclass(frozen=True)
class PredictedDice:
    """Dice that a structure is expected to have.

    Attributes:
        value: predicted Dice.
        low: lower end of the interval; 0 without one.
        high: upper end; 1 without one.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class DiceModel:
    """Ridge regression from signals to Dice.

    Attributes:
        means: mean of each signal, (S,).
        scales: standard deviation of each signal, (S,).
        weights: of the standardised signals, (S,).
        intercept: Dice at the mean of all signals.
        radius: half of the interval relative to 1 - predicted Dice + 0.1; None with too few patients for an interval.
        patients: patients that it was fitted on.
        copies: images that it was fitted on, corrupted copies included.
    """

    means: np.ndarray
    scales: np.ndarray
    weights: np.ndarray
    intercept: float
    radius: float | None
    patients: int
    copies: int

    def predict(self, signals: np.ndarray) -> PredictedDice:
        """Returns the predicted Dice for the signals of a structure, (S,)."""
        value = float(np.clip(_values(self, signals[None])[0], 0, 1))
        if self.radius is None:
            return PredictedDice(value, 0.0, 1.0)
        half = self.radius * float(_spread(np.array(value)))
        return PredictedDice(value, max(value - half, 0.0), min(value + half, 1.0))


def fit_dice(signals: np.ndarray, dice: np.ndarray, patients: Sequence[str], copies: int) -> DiceModel:
    """Returns the regression over all rows, with the interval from errors on left-out patients.

    Args:
        signals: (N, S), a row for each structure of each image.
        dice: (N,).
        patients: patient of each row.
        copies: number of images.

    Raises:
        ValueError: without a row.
    """
    names = np.asarray(patients)
    known = sorted(set(patients))
    if not known:
        raise ValueError("Expected a completely labelled patient with a structure to predict the Dice, found none.")
    errors = []
    for patient in known if len(known) > 1 else ():
        without, left_out = names != patient, names == patient
        values = np.clip(_values(_ridge(signals[without], dice[without]), signals[left_out]), 0, 1)
        errors.append(np.abs(values - dice[left_out]) / _spread(values))
    fitted = _ridge(signals, dice)
    return DiceModel(
        fitted.means, fitted.scales, fitted.weights, fitted.intercept, conformal_radius(errors), len(known), copies
    )


def conformal_radius(errors: Sequence[np.ndarray], level: float = LEVEL) -> float | None:
    """Returns the quantile of the errors of a next patient; None if the patients are too few to bound it.

    Args:
        errors: errors of each patient, (n,) each.
        level: fraction of the next patient's errors that shall be smaller.
    """
    if not errors:
        return None
    values = np.concatenate(errors)
    weights = np.concatenate([np.full(len(some), 1 / len(some) / (len(errors) + 1)) for some in errors])
    order = np.argsort(values)
    reached = np.flatnonzero(np.cumsum(weights[order]) >= level - 1e-9)
    return float(values[order][reached[0]]) if len(reached) else None


def _ridge(signals: np.ndarray, dice: np.ndarray) -> DiceModel:
    means, scales = signals.mean(axis=0), np.maximum(signals.std(axis=0), 1e-6)
    standard, intercept = (signals - means) / scales, float(dice.mean())
    gram = standard.T @ standard + RIDGE * np.eye(signals.shape[1])
    return DiceModel(means, scales, np.linalg.solve(gram, standard.T @ (dice - intercept)), intercept, None, 0, 0)


def _values(model: DiceModel, signals: np.ndarray) -> np.ndarray:
    return np.asarray((signals - model.means) / model.scales @ model.weights + model.intercept)


def _spread(values: np.ndarray) -> np.ndarray:
    return 1 + SPREAD - values

"""Distance of a case's features from those of the training slices.

The student's features at its deepest layer, averaged over the quarters of a slice, are compared with a Gaussian of few
principal axes and one variance for all others (probabilistic principal component analysis; Tipping and Bishop 1999):
with some hundred slices, a full covariance of hundreds of features is not known.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F

AXES = 8
QUARTERS = (2, 2)
SMALLEST_VARIANCE = 1e-6


@contextmanager
def kept_descriptors(network: nn.Module, layer: str) -> Iterator[list[Tensor]]:
    """Collects the descriptor of every slice that a network sees meanwhile, (B, F) for each forward pass.

    Args:
        network: images (B, C, H, W) to logits.
        layer: name of the layer whose output (B, F, h, w) is described.

    Raises:
        AttributeError: when the network has no such layer.
    """
    found: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
        found.append(F.adaptive_avg_pool2d(output.float(), QUARTERS).flatten(1))

    handle = network.get_submodule(layer).register_forward_hook(keep)
    try:
        yield found
    finally:
        handle.remove()


@dataclass(frozen=True)
class FeatureModel:
    """Gaussian of the descriptors of training slices.

    Attributes:
        mean: (F,).
        axes: principal axes (A, F), orthonormal rows.
        variances: variance along each axis, (A,).
        rest: variance along every other direction.
        unit: largest distance of a training patient from the Gaussian of the others: distances are multiples of it.
    """

    mean: np.ndarray
    axes: np.ndarray
    variances: np.ndarray
    rest: float
    unit: float = 1.0

    def distance(self, descriptors: np.ndarray) -> float:
        """Returns the distance of a case: the mean over its slices, 1 for the most unusual training patient.

        Args:
            descriptors: (S, F).
        """
        centred = descriptors.astype(np.float64) - self.mean
        along = centred @ self.axes.T
        rest = np.maximum((centred**2).sum(axis=1) - (along**2).sum(axis=1), 0)
        squared = (along**2 / self.variances).sum(axis=1) + rest / self.rest
        return float(np.sqrt(squared / len(self.mean)).mean() / self.unit)


def fit_features(cases: list[np.ndarray]) -> FeatureModel:
    """Returns the Gaussian of the slices of at least two cases, with the largest distance of a left-out case as unit.

    Args:
        cases: descriptors of each case, (S, F).

    Raises:
        ValueError: with fewer than two cases.
    """
    if len(cases) < 2:
        raise ValueError(f"Expected at least two training patients for the distance of features, found {len(cases)}.")
    left_out = [
        _gaussian(np.concatenate(cases[:number] + cases[number + 1 :])).distance(case)
        for number, case in enumerate(cases)
    ]
    whole = _gaussian(np.concatenate(cases))
    return FeatureModel(whole.mean, whole.axes, whole.variances, whole.rest, max(left_out))


def _gaussian(slices: np.ndarray) -> FeatureModel:
    slices = slices.astype(np.float64)
    mean = slices.mean(axis=0)
    _, values, axes = np.linalg.svd(slices - mean, full_matrices=False)
    variances = np.maximum(values**2 / max(len(slices) - 1, 1), SMALLEST_VARIANCE)
    kept = min(AXES, len(variances))
    others = slices.shape[1] - kept
    rest = max(float(variances[kept:].sum()) / max(others, 1), SMALLEST_VARIANCE)
    return FeatureModel(mean, axes[:kept], np.maximum(variances[:kept], rest), rest)

"""Realism, sharpness and diversity of a set of images.

Sources:
    Bińkowski et al. 2018, arXiv 1801.01401 (kernel inception distance); Wang et al. 2003, "Multiscale structural
    similarity for image quality assessment" (MS-SSIM).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from monai.metrics.regression import compute_ms_ssim

from tskd_monai.data.gates_file import Interval

KERNEL_DEGREE = 3
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the finest scale to the coarsest
MS_SSIM_KERNEL = 11  # pixels
PAIRS_AT_ONCE = 32
LEAST_CONTRAST = 0.01  # standard deviation to which the gradient of a nearly blank image is relative


def spread(draws: Sequence[float] | np.ndarray) -> Interval:
    """Returns the mean and the 2.5 % and 97.5 % quantiles of draws."""
    low, high = np.quantile(np.asarray(draws, dtype=np.float64), (0.025, 0.975))
    return Interval(float(np.mean(draws)), float(low), float(high))


def feature_scale(features: np.ndarray) -> float:
    """Returns the root mean square of features (N, d), by which to divide them: the kernel is not scale-invariant."""
    return float(np.sqrt(np.mean(np.square(features))))


def patient_subsets(
    patients: Sequence[object], patients_in_subset: int, subset_size: int, subsets: int = 100, seed: int = 0
) -> list[np.ndarray]:
    """Returns random subsets of images, each from a few random patients: other cohorts of the same size.

    Args:
        patients: patient of each image.
        patients_in_subset: number of patients, each with at least one image, that the images of a subset are drawn
            from; more where these have too few images.
        subset_size: images in a subset, at most all.
        subsets: number of draws.
        seed: seed of the draws.

    Returns:
        Indices of images, (subset_size,) for each draw.
    """
    _, codes = np.unique(np.asarray([str(name) for name in patients]), return_inverse=True)
    size = min(subset_size, len(codes))
    generator = np.random.default_rng(seed)
    drawn = []
    for _ in range(subsets):
        order = generator.permutation(codes.max() + 1)[codes]  # position of each image's patient in a random order
        enough = max(patients_in_subset, int(np.sort(order)[size - 1]) + 1)
        drawn.append(generator.choice(np.flatnonzero(order < enough), size, replace=False))
    return drawn


def sharpness(images: torch.Tensor) -> np.ndarray:
    """Returns the root mean square of each image's gradient, relative to its standard deviation, (N,).

    Blurred images have lower values than those of the same organs that are not; noise has higher ones.

    Args:
        images: (N, C, H, W) in [0, 1].
    """
    squares = images.diff(dim=-1).square().mean((1, 2, 3)) + images.diff(dim=-2).square().mean((1, 2, 3))
    contrast = images.flatten(1).std(1).clamp(min=LEAST_CONTRAST)
    return (squares.sqrt() / contrast).numpy()


def kernel_distances(
    first: np.ndarray,
    second: np.ndarray,
    subsets: int = 100,
    subset_size: int = 50,
    seed: int = 0,
    first_subsets: Sequence[np.ndarray] | None = None,
) -> np.ndarray:
    """Returns the unbiased kernel inception distance of random pairs of subsets, (subsets,).

    The kernel is (x·y / d + 1)³; its value depends on the scale of the features. The estimate is unbiased: two sets of
    one distribution give values around 0, also negative ones. The same seed and set sizes give the same subsets, so
    that two models can be compared draw by draw.

    Args:
        first: features (N, d).
        second: features (M, d).
        subsets: number of draws.
        subset_size: images of each set in a draw, at most the size of the smaller set.
        seed: seed of the draws.
        first_subsets: indices of the images of `first` in each draw; None: random ones.

    Raises:
        ValueError: when a set has fewer than two images.
    """
    size = min(subset_size, len(first), len(second))
    if size < 2:
        raise ValueError(
            f"Expected at least two images in each set for a kernel distance, found {len(first)} and {len(second)}."
        )
    generator = np.random.default_rng(seed)
    distances = []
    for draw in range(subsets):
        chosen = generator.choice(len(first), size, replace=False) if first_subsets is None else first_subsets[draw]
        x = first[chosen].astype(np.float64)
        y = second[generator.choice(len(second), size, replace=False)].astype(np.float64)
        within = _mean_off_diagonal(_kernel(x, x)) + _mean_off_diagonal(_kernel(y, y))
        distances.append(within - 2 * float(_kernel(x, y).mean()))
    return np.array(distances)


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1) ** KERNEL_DEGREE


def _mean_off_diagonal(matrix: np.ndarray) -> float:
    size = len(matrix)
    return float((matrix.sum() - np.trace(matrix)) / (size * (size - 1)))


def pair_similarities(
    images: torch.Tensor, groups: Sequence[object] | None = None, pairs: int = 200, seed: int = 0
) -> np.ndarray:
    """Returns the MS-SSIM of random pairs of images, at most (pairs,); lower values mean more diverse images.

    Images below 176 pixels are compared at fewer scales, as many as the window of 11 pixels allows.

    Args:
        images: (N, C, H, W) in [0, 1].
        groups: group of each image, such as its patient; only images of different groups form a pair.
        pairs: number of pairs to draw; all pairs where there are fewer.
        seed: seed of the draw.

    Raises:
        ValueError: when no two images form a pair.
    """
    first, second = np.triu_indices(len(images), k=1)
    if groups is not None:
        _, group = np.unique(np.asarray([str(name) for name in groups]), return_inverse=True)
        apart = group[first] != group[second]
        first, second = first[apart], second[apart]
    if not len(first):
        raise ValueError("Expected at least two images, of two patients if they are real, found none to compare.")
    chosen = np.random.default_rng(seed).choice(len(first), min(pairs, len(first)), replace=False)
    weights = _scale_weights(min(images.shape[-2:]))
    values = []
    for start in range(0, len(chosen), PAIRS_AT_ONCE):
        batch = chosen[start : start + PAIRS_AT_ONCE]
        x, y = images[torch.from_numpy(first[batch])], images[torch.from_numpy(second[batch])]
        values.append(compute_ms_ssim(x, y, spatial_dims=2, weights=weights).flatten().numpy())
    return np.concatenate(values)


def _scale_weights(side: int) -> tuple[float, ...]:
    """Returns the weights of the scales that MONAI supports at this image size; they sum to 1."""
    scales = len(MS_SSIM_WEIGHTS)
    while scales > 1 and side // (scales - 1) ** 2 < MS_SSIM_KERNEL:
        scales -= 1
    chosen = MS_SSIM_WEIGHTS[:scales]
    return tuple(weight / sum(chosen) for weight in chosen)

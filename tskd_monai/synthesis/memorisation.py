"""Memorisation of training images by a diffusion model: nearest training images in pixels and in features.

The real images set the scale: the distances between images of different patients.

Source:
    Carlini et al. 2023, arXiv 2301.13188 (near copies of training images by distance to the nearest one).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import interpolate

COMPARED_SIDE = 64  # pixels; finer detail is noise in this comparison
IMAGES_AT_ONCE = 4
FLIPS: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1))


@dataclass(frozen=True)
class Nearest:
    """The nearest reference of each image.

    Attributes:
        distances: distance to the reference, (N,).
        indices: index of the reference, (N,).
    """

    distances: np.ndarray
    indices: np.ndarray


def nearest_in_pixels(
    images: torch.Tensor,
    references: torch.Tensor,
    max_shift: float = 1 / 16,
    image_groups: Sequence[object] | None = None,
    reference_groups: Sequence[object] | None = None,
) -> Nearest:
    """Returns the nearest references under flips and shifts.

    The distance is the root mean squared difference of grey values, minimised over the four flips and over cyclic
    shifts, of images reduced to at most 64 pixels a side. One product of Fourier transforms gives all shifts.

    Args:
        images: (N, C, H, W) in [0, 1].
        references: (M, C, H, W).
        max_shift: largest shift as a fraction of the image's side.
        image_groups: group of each image, such as its patient.
        reference_groups: group of each reference; an image is not compared with references of its own group.

    Raises:
        ValueError: when an image has no reference.
    """
    images, references = _reduced(images), _reduced(references)
    excluded = _same_group(image_groups, reference_groups, len(images), len(references))
    window = _shift_window(images.shape[-2:], max_shift)
    spectra = torch.fft.rfft2(references).conj()
    energy = references.square().flatten(1).sum(1)
    distances, indices = [], []
    for start in range(0, len(images), IMAGES_AT_ONCE):
        batch = images[start : start + IMAGES_AT_ONCE]
        overlap = torch.full((len(batch), len(references)), -torch.inf)
        for flip in FLIPS:
            product = torch.einsum("ichw,rchw->irhw", torch.fft.rfft2(batch.flip(flip)), spectra)
            shifted = torch.fft.irfft2(product, s=images.shape[-2:])[..., window[0], window[1]]
            overlap = torch.maximum(overlap, shifted.amax(-1))
        squares = batch.square().flatten(1).sum(1)[:, None] + energy - 2 * overlap
        squares[excluded[start : start + IMAGES_AT_ONCE]] = torch.inf
        least, index = squares.min(1)
        distances.append((least.clamp(min=0) / images[0].numel()).sqrt())
        indices.append(index)
    return Nearest(torch.cat(distances).numpy(), torch.cat(indices).numpy())


def nearest_in_features(
    features: np.ndarray,
    references: np.ndarray,
    feature_groups: Sequence[object] | None = None,
    reference_groups: Sequence[object] | None = None,
) -> Nearest:
    """Returns the nearest references by cosine distance, 1 - cos.

    Args:
        features: features of the images, (N, d).
        references: features of the references, (M, d).
        feature_groups: group of each image, such as its patient.
        reference_groups: group of each reference; an image is not compared with references of its own group.

    Raises:
        ValueError: when an image has no reference.
    """
    distances = 1 - _unit(features) @ _unit(references).T
    excluded = _same_group(feature_groups, reference_groups, len(features), len(references))
    distances[excluded.numpy()] = np.inf
    indices = distances.argmin(1)
    return Nearest(np.maximum(distances[np.arange(len(features)), indices], 0), indices)


def _unit(features: np.ndarray) -> np.ndarray:
    features = features.astype(np.float64)
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def _reduced(images: torch.Tensor) -> torch.Tensor:
    height, width = images.shape[-2:]
    scale = min(1.0, COMPARED_SIDE / max(height, width))
    if scale == 1.0:
        return images.float()
    return interpolate(images.float(), (round(height * scale), round(width * scale)), mode="area")


def _shift_window(size: Sequence[int], max_shift: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the rows and columns of a circular correlation that correspond to the allowed shifts."""
    shifts = [torch.arange(-int(side * max_shift), int(side * max_shift) + 1) % side for side in size]
    rows, columns = torch.meshgrid(*shifts, indexing="ij")
    return rows.flatten(), columns.flatten()


def _same_group(
    image_groups: Sequence[object] | None, reference_groups: Sequence[object] | None, images: int, references: int
) -> torch.Tensor:
    """Returns which references are of the image's own group, (N, M)."""
    if image_groups is None or reference_groups is None:
        same = np.zeros((images, references), dtype=bool)
    else:
        same = np.array([str(name) for name in image_groups])[:, None] == [str(name) for name in reference_groups]
    if images and (references == 0 or same.all(1).any()):
        raise ValueError("Expected training images of at least two patients to compare with, found one patient's only.")
    return torch.from_numpy(same)

"""Corrupted copies of an image, so that bad cases exist when the predicted Dice is fitted.

Each takes slices (C, H, W, D) in [0, 1] and a generator, and returns the copy; only `half_of_the_slices` drops slices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

Corruption = Callable[[Tensor, np.random.Generator], Tensor]


def noise(image: Tensor, generator: np.random.Generator) -> Tensor:
    """Adds Gaussian noise of standard deviation 0.1 to 0.3."""
    deviation = generator.uniform(0.1, 0.3)
    added = generator.standard_normal(image.shape, dtype=np.float32) * deviation
    return (image + torch.from_numpy(added)).clamp(0, 1)


def bias_field(image: Tensor, generator: np.random.Generator) -> Tensor:
    """Multiplies by a field that falls to a tenth across the slice, in a random direction."""
    angle = generator.uniform(0, 2 * np.pi)
    rows, columns = (np.linspace(-1, 1, size)[:, None, None] for size in image.shape[1:3])
    along = np.sin(angle) * rows + np.cos(angle) * columns.transpose(1, 0, 2)
    field = 10.0 ** (-(along - along.min()) / (along.max() - along.min()))
    return image * torch.from_numpy(field).float()


def blur(image: Tensor, generator: np.random.Generator) -> Tensor:
    """Blurs the slices with a Gaussian of 2 to 4 pixels."""
    sigma = generator.uniform(2, 4)
    return torch.from_numpy(ndimage.gaussian_filter(image.numpy(), (0, sigma, sigma, 0)))


def contrast(image: Tensor, generator: np.random.Generator) -> Tensor:
    """Shifts the grey values: their square root, or their third power."""
    return image ** generator.choice([0.5, 3.0])


def ghosts(image: Tensor, generator: np.random.Generator) -> Tensor:
    """Adds copies that are shifted along the rows, as motion during the acquisition does."""
    shift = int(generator.integers(image.shape[1] // 10, image.shape[1] // 4))
    return (0.5 * image + 0.3 * image.roll(shift, 1) + 0.3 * image.roll(-shift, 1)).clamp(0, 1)


def half_of_the_slices(image: Tensor, generator: np.random.Generator) -> Tensor:
    """Keeps the first or the last half of the slices; a single slice stays."""
    half = -(-image.shape[-1] // 2)
    return image[..., :half] if generator.integers(2) else image[..., -half:]


CORRUPTIONS: Mapping[str, Corruption] = {
    "noise": noise,
    "bias field": bias_field,
    "blur": blur,
    "contrast": contrast,
    "ghosts": ghosts,
    "half of the slices": half_of_the_slices,
}


def corrupted(name: str, image: Tensor, label: Tensor, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Returns a corrupted image and its label.

    Args:
        name: key of `CORRUPTIONS`.
        image: (C, H, W, D) in [0, 1].
        label: class of each voxel, (1, H, W, D).
        generator: source of the random numbers.
    """
    state = generator.bit_generator.state
    changed = CORRUPTIONS[name](image, generator)
    if changed.shape[-1] != label.shape[-1]:
        generator.bit_generator.state = state
        label = CORRUPTIONS[name](label, generator)
    return changed, label

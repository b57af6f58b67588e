"""Sampled and real images that are compared with one another."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tskd_monai.data.slices import SliceDataset

BLANK_CONTRAST = 0.01  # standard deviation of an image in [0, 1] below which it is blank


@dataclass(frozen=True)
class Images:
    """Images, their features and their origins.

    Attributes:
        pixels: (N, C, H, W) in [0, 1].
        features: image embeddings of the encoder, (N, d).
        cases: patient of each image.
        slices: index of each image in its volume.
    """

    pixels: torch.Tensor
    features: np.ndarray
    cases: Sequence[str]
    slices: Sequence[int]


def all_images(dataset: SliceDataset) -> Images:
    """Returns the images of a dataset, without features.

    Args:
        dataset: slices with `image` (C, H, W) in [0, 1].

    Raises:
        ValueError: when there are none.
    """
    if not len(dataset):
        raise ValueError("Expected images to compare with in the datalist, found none; see its sections.")
    pixels = torch.stack([image.float() for image in dataset.arrays("image")])
    cases, slices = zip(*dataset.origins, strict=True)
    return Images(pixels, np.empty((0, 0)), cases, slices)


def nonblank_images(dataset: SliceDataset) -> Images:
    """Returns the nonblank images of a dataset, without features.

    Args:
        dataset: slices with `image` (C, H, W) in [0, 1].

    Raises:
        ValueError: when fewer than two images are nonblank.
    """
    images = all_images(dataset)
    shown = [index for index, image in enumerate(images.pixels) if float(image.std()) >= BLANK_CONTRAST]
    if len(shown) < 2:
        raise ValueError(f"Expected at least two real images that are not blank, found {len(shown)}.")
    cases = [images.cases[index] for index in shown]
    slices = [images.slices[index] for index in shown]
    return Images(images.pixels[shown], images.features, cases, slices)


def images_sha256(images: torch.Tensor) -> str:
    """Returns the sha256 of images (N, C, H, W) in [0, 1], rounded to the 8 bits in which a transfer set is stored."""
    return hashlib.sha256((images * 255).round().to(torch.uint8).contiguous().numpy().tobytes()).hexdigest()

"""Scaling of image values to [0, 1], and random changes of these values."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandHistogramShift, RandomizableTransform
from torch import Tensor
from torch.nn import functional as F

logger = logging.getLogger(__name__)


class ScaleToUnitRanged(MapTransform):
    """Maps [lower, upper] linearly to [0, 1] and clips.

    NaN and infinite voxels are excluded from the percentiles and become 0, and so does a constant image, both with a
    warning.

    Args:
        keys: keys of images `(C, …)` of any real type; the result is float32.
        mode: `percentile`: `lower` and `upper` are percentiles of the image's own finite values;
            `hu_window` or `rgb`: they are values.
        lower: percentile or value that becomes 0.
        upper: percentile or value that becomes 1.
        allow_missing_keys: skip absent keys.
    """

    def __init__(
        self, keys: KeysCollection, mode: str, lower: float, upper: float, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if mode not in ("percentile", "hu_window", "rgb"):
            raise ValueError(f"Expected mode percentile, hu_window or rgb, found {mode}.")
        self.mode, self.lower, self.upper = mode, lower, upper

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns the dictionary with scaled images."""
        scaled = dict(data)
        for key in self.key_iterator(scaled):
            scaled[key] = self._scale(scaled[key])
        return scaled

    def _scale(self, image: torch.Tensor) -> torch.Tensor:
        image = image.to(torch.float32)
        # Any NaN or infinite voxel makes the sum non-finite; so can large finite values, which `count` tells apart.
        finite = None if torch.isfinite(image.sum()) else torch.isfinite(image)
        if finite is not None and (count := int((~finite).sum())):
            logger.warning("%d NaN or infinite voxels are excluded from intensity scaling.", count)
        lower, upper = self.lower, self.upper
        if self.mode == "percentile":
            values = np.asarray(image) if finite is None else np.asarray(image)[np.asarray(finite)]
            lower, upper = np.percentile(values, [lower, upper]) if values.size else (0.0, 0.0)
        span = float(upper) - float(lower)
        if span <= 0:
            logger.warning("The image is constant; it becomes 0 throughout.")
            return torch.zeros_like(image)
        unit = (image - float(lower)).div_(span).clamp_(0, 1)
        if finite is None:
            return unit
        # `where` on a MetaTensor keeps its geometry.
        return torch.where(finite, unit, torch.zeros_like(unit))


class RandomCurved(RandomizableTransform, MapTransform):
    """Maps the values of a slice through a random monotone curve, half of the time after inverting their order.

    The curve is that of MONAI's ``RandHistogramShift``: linear between control points that are moved at random. With it
    a bright organ can become dark, and two organs of different brightness alike.

    Args:
        keys: keys of images (C, H, W) in [0, 1].
        prob: probability that a slice is changed.
        invert: probability that the order of a changed slice's values is inverted.
        control_points: smallest and largest number of control points; few change more.
    """

    def __init__(
        self,
        keys: KeysCollection,
        prob: float = 0.5,
        invert: float = 0.5,
        control_points: tuple[int, int] = (4, 8),
    ) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        self.invert, self.curve = invert, RandHistogramShift(control_points, prob=1.0)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns a copy of the item with changed images."""
        changed = dict(data)
        self.randomize(None)
        if not self._do_transform:
            return changed
        inverted = self.R.rand() < self.invert
        self.curve.set_random_state(state=self.R).randomize(None)
        for key in self.keys:
            image = torch.as_tensor(changed[key])
            changed[key] = self.curve(1 - image if inverted else image, randomize=False)
        return changed


class RandomShallowConvolutiond(RandomizableTransform, MapTransform):
    """Blends a slice with its image under a shallow network of random weights, at the norm of the slice.

    Global intensity non-linear augmentation (GIN): Ouyang et al., "Causality-inspired single-source domain
    generalization for medical image segmentation", TMI 2022.

    Args:
        keys: keys of images (C, H, W) in [0, 1].
        prob: probability that a slice is changed.
        layers: convolutions; the size of each kernel is drawn from 1 and 3.
        width: channels between them.
    """

    def __init__(self, keys: KeysCollection, prob: float = 0.5, layers: int = 4, width: int = 2) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        self.layers, self.width = layers, width

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns a copy of the item with changed images."""
        changed = dict(data)
        self.randomize(None)
        if self._do_transform:
            for key in self.keys:
                changed[key] = self._blend(torch.as_tensor(changed[key]).as_subclass(Tensor))
        return changed

    def _blend(self, image: Tensor) -> Tensor:
        channels = [len(image), *[self.width] * (self.layers - 1), len(image)]
        found = image[None]
        for number, (before, after) in enumerate(zip(channels, channels[1:], strict=False)):
            size = int(self.R.choice([1, 3]))
            kernel, shift = self.R.normal(size=(after, before, size, size)), self.R.normal(size=after)
            found = F.conv2d(found, torch.as_tensor(kernel, dtype=image.dtype), padding=size // 2)
            found = found + torch.as_tensor(shift, dtype=image.dtype)[:, None, None]
            if number < self.layers - 1:
                found = F.leaky_relu(found)
        share = float(self.R.rand())
        blended = share * found[0] + (1 - share) * image
        return blended * (image.norm() / blended.norm().clamp_min(1e-5))


def remap_organs(image: Tensor, probabilities: Tensor, random: np.random.RandomState) -> Tensor:
    """Returns an image in which the brightness of each organ is changed at random, independently of the others.

    Args:
        image: (C, H, W) in [0, 1].
        probabilities: of the foreground classes, (K - 1, H, W); their boundaries blend.
        random: state of the draws: for each class a gamma of e^-0.7 to e^0.7 and a gain of 0.5 to 1.5.
    """
    changed = image * (1 - probabilities.sum(dim=0)).clamp_min(0)
    for probability in probabilities:
        gamma, gain = float(np.exp(random.uniform(-0.7, 0.7))), float(random.uniform(0.5, 1.5))
        changed = changed + probability * (gain * image.clamp_min(0) ** gamma).clamp_max(1)
    return changed

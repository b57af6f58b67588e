"""Scaling of image values to [0, 1]."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

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

"""Several random views of one image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from monai.transforms import Randomizable, Transform


class TwoViews(Randomizable, Transform):
    """Gives two draws of a random transform of the same image, one behind the other.

    Args:
        transform: of an item with `image` (C, H, W); its random state is that of this transform.
    """

    def __init__(self, transform: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> None:
        self.transform = transform

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> TwoViews:
        """Seeds the random transform."""
        super().set_random_state(seed, state)
        if isinstance(self.transform, Randomizable):
            self.transform.set_random_state(seed, state)
        return self

    def randomize(self, data: Any = None) -> None:
        """Draws nothing: the transform does."""

    def __call__(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the item with `image` (2, C, H, W)."""
        views = [torch.as_tensor(np.asarray(self.transform(dict(item))["image"])) for _ in range(2)]
        return {**item, "image": torch.stack(views)}

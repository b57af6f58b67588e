"""Random rotation, scaling and shift of a slice, the shift in fractions of its size."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from monai.transforms import MapTransform, RandAffined, Randomizable

# At strength 1.
ROTATION_RADIANS = 0.26  # 15 degrees
SCALING = 0.15
SHIFT = 0.06  # fraction of the side
INTERPOLATION = {"image": "bilinear", "label": "nearest", "coordinates": "bilinear"}


class RandomAffined(Randomizable, MapTransform):
    """Rotates, scales and shifts a slice and its label at random; zeros are padded at the edges.

    MONAI's ``RandAffined`` shifts by pixels, so its strength depends on the image size. Here the shift is a fraction of
    the slice's sides.

    Args:
        keys: keys of arrays (C, H, W) of the same size: ``image``, ``label``, ``coordinates``.
        prob: probability that a slice is transformed.
        strength: factor of rotation (15 degrees), scaling (15 %) and shift (6 % of each side).
    """

    def __init__(self, keys: Sequence[str], prob: float = 1.0, strength: float = 1.0) -> None:
        MapTransform.__init__(self, keys)
        self.prob, self.strength = prob, strength

    def randomize(self, data: Any = None) -> None:
        """Draws nothing; MONAI's transform does, from the random state of this one."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns a copy of the item with transformed arrays."""
        height, width = data[self.keys[0]].shape[-2:]
        affine = RandAffined(
            self.keys,
            prob=self.prob,
            rotate_range=ROTATION_RADIANS * self.strength,
            scale_range=(SCALING * self.strength, SCALING * self.strength),
            translate_range=(SHIFT * self.strength * height, SHIFT * self.strength * width),
            mode=[INTERPOLATION[str(key)] for key in self.keys],
            padding_mode="zeros",
        )
        return dict(affine.set_random_state(state=self.R)(data))

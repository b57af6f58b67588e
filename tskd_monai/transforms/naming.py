"""The name that an image's outputs will carry."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.transforms import MapTransform


class NameOutputd(MapTransform):
    """Puts the item's `name` into its image's metadata, from which outputs are named.

    Args:
        keys: of images.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> Mapping[Hashable, Any]:
        """Returns the dictionary; an item without one keeps the file's name."""
        for key in self.key_iterator(dict(data)):
            if "name" in data:
                data[key].meta["output_name"] = str(data["name"])
        return data

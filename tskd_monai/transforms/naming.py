"""What an image is called: in messages, and in the names of its outputs."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

from monai.transforms import MapTransform


def image_title(metadata: Mapping[str, Any]) -> str:
    """Returns what an image is called in messages.

    A file has its name; a DICOM series, whose folder may be called after the patient, is named by its hash.
    """
    if metadata.get("series_hash"):
        return f"series {metadata['series_hash']}"
    return Path(str(metadata.get("filename_or_obj", "the image"))).name


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

"""Transforms of slices without MONAI's metadata."""

from __future__ import annotations

from typing import Any

from monai.data import get_track_meta, set_track_meta
from monai.transforms import Compose


class PlainCompose(Compose):
    """MONAI's `Compose`, whose transforms return plain tensors: half the time for a small slice, the same values.

    A slice of a training batch needs neither its affine matrix nor the list of applied transforms, which MONAI updates
    in each of them; and each operation of the training step on a tensor with metadata would cost more too.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Returns the transformed item; see MONAI's `Compose`."""
        tracked = get_track_meta()
        set_track_meta(False)
        try:
            return super().__call__(*args, **kwargs)
        finally:
            set_track_meta(tracked)

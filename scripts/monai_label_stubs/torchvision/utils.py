"""The names that the server imports."""

from __future__ import annotations

from typing import NoReturn

MESSAGE = "torchvision is not installed in the MONAI Label environment; serving a segmentation bundle needs none of it."


def make_grid(*args: object, **kwargs: object) -> NoReturn:
    """Raises ImportError: callers need the real function."""
    raise ImportError(MESSAGE)


def save_image(*args: object, **kwargs: object) -> NoReturn:
    """Raises ImportError: callers need the real function."""
    raise ImportError(MESSAGE)

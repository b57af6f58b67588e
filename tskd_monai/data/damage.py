"""Damaged files, named."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def damage_explained(kind: str, name: str) -> Iterator[None]:
    """Turns what a library raises on a damaged file into a ValueError that names it.

    A decoder raises dozens of types there and documents none. Inside the block stands the library's call alone: an
    error of ours would be taken for damage.

    Args:
        kind: of the file, such as `NIfTI file`.
        name: of the file.

    Raises:
        ValueError: for every exception but those that have nothing to do with the file, such as MemoryError.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(
            f"Expected a complete {kind}, found {name} truncated or damaged ({error}); copy or export it again."
        ) from error

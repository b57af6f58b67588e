"""What an image's header may claim, validated before memory is allocated for it, and how damage is reported."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

MAX_VOXELS = 2**30
"""4 GiB in float32: a whole-body CT of 512 x 512 x 2000 is half of it."""

DEFLATE_MAX_RATIO = 1032
"""Deflate (gzip, zip, PNG) packs at most so many bytes into one."""


def check_voxel_count(count: int, name: str) -> None:
    """Raises ValueError when a header claims more voxels than an image may have.

    Args:
        count: of voxels, or of pixels times colour channels.
        name: of the image in the message.
    """
    if count > MAX_VOXELS:
        raise ValueError(
            f"Expected at most {MAX_VOXELS} voxels in {name}, found a header that claims {count}; "
            "crop or resample the image if it is really so large."
        )


def check_held(claimed: int, file_bytes: int, ratio: int, name: str) -> None:
    """Raises ValueError when a header claims more than a file of its size can hold.

    Args:
        claimed: bytes of voxels by the header.
        file_bytes: of the file.
        ratio: that its compression reaches at most; 1 without.
        name: of the image in the message.
    """
    if claimed > file_bytes * ratio:
        raise ValueError(
            f"Expected a complete image, found {name} truncated or damaged (its header states {claimed} bytes of "
            f"voxels, the file holds {file_bytes * ratio} at most); copy or export it again."
        )


@contextmanager
def damage_explained(kind: str, name: str) -> Iterator[None]:
    """Turns what a library raises on a damaged file into a ValueError that names it.

    A decoder raises dozens of types there and documents none. Put the library's call into the block and
    nothing else: an error of ours would be taken for damage.

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

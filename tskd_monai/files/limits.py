"""Limits on the header values of an image, validated before memory is allocated, and errors for damaged files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

MAX_VOXELS = 2**30
"""4 GiB in float32, twice a whole-body CT of 512 x 512 x 2000."""

DEFLATE_MAX_RATIO = 1032
"""Maximum compression ratio of Deflate (gzip, zip, PNG)."""


def check_voxel_count(count: int, name: str) -> None:
    """Raises ValueError if a header declares more voxels than an image may have.

    Args:
        count: number of voxels, or of pixels times colour channels.
        name: name of the image in the message.
    """
    if count > MAX_VOXELS:
        raise ValueError(
            f"Expected at most {MAX_VOXELS} voxels in {name}, found a header that claims {count}; "
            "crop or resample the image if it is really so large."
        )


def check_held(claimed: int, file_bytes: int, ratio: int, name: str) -> None:
    """Raises ValueError if a header declares more data than a file of its size can contain.

    Args:
        claimed: bytes of voxel data according to the header.
        file_bytes: size of the file in bytes.
        ratio: maximum compression ratio of the format; 1 if uncompressed.
        name: name of the image in the message.
    """
    if claimed > file_bytes * ratio:
        raise ValueError(
            f"Expected a complete image, found {name} truncated or damaged (its header states {claimed} bytes of "
            f"voxels, the file holds {file_bytes * ratio} at most); copy or export it again."
        )


@contextmanager
def damage_explained(kind: str, name: str) -> Iterator[None]:
    """Converts exceptions that a library raises on a damaged file into a ValueError that names the file.

    Decoders raise dozens of exception types and document none of them. Put only the library's call into the block: an
    error of ours would be reported as damage.

    Args:
        kind: kind of the file, such as `NIfTI file`.
        name: name of the file.

    Raises:
        ValueError: for every exception except those unrelated to the file, such as MemoryError.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(
            f"Expected a complete {kind}, found {name} truncated or damaged ({error}); copy or export it again."
        ) from error

"""The description of a volume by a text header, and the checks that NRRD and MetaImage headers share."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

import numpy as np

MAX_HEADER_BYTES = 2**20
MAX_NAME_BYTES = 255
MAX_LINE_BYTES = 2**16
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""ITK's world axes point to left, posterior, superior; ours to right, anterior, superior."""

NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
ODD_SPACE = re.compile(r"[^\S \t\r\n]|\r(?!\n)")
WHOLE_NUMBER = re.compile(r"\d{1,18}")
EXPORT = "export the image again"
MILLIMETRES = ("mm", "millimeter", "millimeters", "?", "")

Encoding = Literal["raw", "deflate"]


@dataclass(frozen=True)
class StoredVolume:
    """A volume in a file, as described by its header.

    Attributes:
        header: file of the header.
        data: file of the voxels: the same, or another in the same folder.
        offset: bytes before the voxels in `data`; -1 if the voxels are the end of the file.
        encoding: `raw`, or `deflate` (gzip or zlib).
        stored: bytes of the encoded voxels according to the header; None if not stated.
        dtype: type of the voxels.
        shape: (X, Y, Z), or (X, Y) of one slice.
        affine: affine to RAS mm (4, 4), not checked.
        notes: assumptions about what the header leaves open, one phrase each.
    """

    header: Path
    data: Path
    offset: int
    encoding: Encoding
    stored: int | None
    dtype: np.dtype
    shape: tuple[int, ...]
    affine: np.ndarray
    notes: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """Name of the volume in messages."""
        return self.header.name if self.data == self.header else f"{self.header.name} (voxels in {self.data.name})"

    @property
    def voxel_count(self) -> int:
        """Number of voxels according to the header."""
        return math.prod(self.shape)

    @property
    def voxel_bytes(self) -> int:
        """Bytes of the decoded voxels according to the header."""
        return self.voxel_count * self.dtype.itemsize


def refuse(name: str, expected: str, found: object, advice: str = EXPORT) -> NoReturn:
    """Raises ValueError for a header that is not supported."""
    text = str(found)
    raise ValueError(f"Expected {expected} in {name}, found {text[:60] + ' …' if len(text) > 60 else text}; {advice}.")


def header_text(content: bytes, name: str) -> str:
    """Returns a header as text; refuses binary data and lines longer than any program writes.

    White space other than blanks, tabs and line ends does not separate words for ITK: it is replaced by U+FFFD.
    """
    if b"\0" in content or max(map(len, content.splitlines()), default=0) > MAX_LINE_BYTES:
        refuse(name, "a text header", "binary data")
    return ODD_SPACE.sub("\ufffd", content.decode("utf-8", errors="replace"))


def numbers(text: Sequence[str], count: int, what: str, name: str) -> list[float]:
    """Returns the finite numbers of a field, or refuses it.

    Args:
        text: words of the field.
        count: expected number of them.
        what: name of the field in the message.
        name: name of the file.
    """
    values = [float(item) for item in text if NUMBER.fullmatch(item)]
    if len(values) != len(text) or len(values) != count or not all(math.isfinite(value) for value in values):
        refuse(name, f"{count} number(s) as {what}", " ".join(text) or "nothing", "correct the header")
    return values


def sizes(text: Sequence[str], count: int, what: str, name: str) -> tuple[int, ...]:
    """Returns the number of voxels along each axis, or refuses the field; arguments as for `numbers`."""
    values = [int(item) for item in text if WHOLE_NUMBER.fullmatch(item)]
    if len(values) != len(text) or len(values) != count or min(values, default=0) < 1:
        refuse(name, f"{count} whole number(s) above 0 as {what}", " ".join(text) or "nothing")
    return tuple(values)


def require_two_or_three_axes(count: int, name: str) -> None:
    """Refuses another number of axes; with a fourth one, even of length 1, ITK ignores the directions or the file."""
    if count not in (2, 3):
        refuse(
            name,
            "one 3D volume",
            f"{count} axes",
            "save the volume to segment as its own file, and colour channels or vectors as separate images",
        )


def affine_of(columns: np.ndarray, origin: Sequence[float]) -> np.ndarray:
    """Returns the affine (4, 4) of a volume, or of one slice with a thickness of 1 mm.

    Args:
        columns: step from voxel to voxel along each axis, mm; (3, 3), or (2, 2) for a slice.
        origin: position of the first voxel, mm.
    """
    affine = np.eye(4)
    dimensions = len(columns)
    affine[:dimensions, :dimensions] = columns
    affine[:dimensions, 3] = origin
    return affine


def data_file(header: Path, named: str) -> Path:
    """Returns the data file of a detached header, in the same folder.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the header names several files, or one in another folder.
    """
    advice = "save the image as one .nrrd or .mha file"
    if named.split(" ")[0] == "LIST" or "%" in named:
        refuse(header.name, "one data file", named, advice)
    is_name = named not in ("", ".", "..") and named.isprintable() and len(named.encode()) <= MAX_NAME_BYTES
    if not is_name or Path(named).name != named or "\\" in named:
        refuse(header.name, "a data file in the same folder", named or "no name", advice)
    path = header.with_name(named)
    if not path.is_file():
        raise FileNotFoundError(
            f"Expected the data file {named} of {header.name} beside it, found none; copy it there, or {advice}."
        )
    return path

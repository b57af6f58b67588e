"""Strict parsing of the headers of MetaImage files (`.mha`, `.mhd`), the format of ITK and ITK-SNAP.

Source: https://itk.org/Wiki/ITK/MetaIO/Documentation
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tskd_monai.data.stored_volume import (
    EXPORT,
    LPS_TO_RAS,
    MAX_HEADER_BYTES,
    MILLIMETRES,
    StoredVolume,
    affine_of,
    data_file,
    header_text,
    numbers,
    refuse,
    require_two_or_three_axes,
    sizes,
)

META_IMAGE_SUFFIXES = (".mha", ".mhd")

LOCAL = "LOCAL"
END_OF_HEADER = re.compile(rb"(?:^|\n)[ \t]*ElementDataFile[ \t]*=[^\n]*(?:\n|$)")
LINE = re.compile(r"\s*(?P<key>[^=]*?)\s*=\s*(?P<value>.*?)\s*")
TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}  # fmt: skip
"""MetaIO's `long` has 4 bytes on every system."""

ALIASES = {"Position": "Offset", "Origin": "Offset", "Rotation": "TransformMatrix", "Orientation": "TransformMatrix",
           "ElementByteOrderMSB": "BinaryDataByteOrderMSB"}  # fmt: skip
MAX_KEY_LENGTH = 255
PER_AXIS = ("DimSize", "ElementSpacing", "Offset", "TransformMatrix")
ONLY = {
    "ObjectType": ("Image",),
    "BinaryData": ("True",),
    "ElementNumberOfChannels": ("1",),
    "ElementToIntensityFunctionSlope": ("1",),
    "ElementToIntensityFunctionOffset": ("0",),
    "BinaryDataByteOrderMSB": ("True", "False"),
    "CompressedData": ("True", "False"),
}
"""Supported values of fields that change how the file has to be read; ITK itself ignores slope and offset."""
UNIT_TOLERANCE = 1e-3
"""Largest deviation of the length of a direction in TransformMatrix from 1: some programs write few digits."""


def read_meta_image_header(path: Path) -> StoredVolume:
    """Returns the volume that the header of a MetaImage file describes.

    Raises:
        FileNotFoundError: if the data file of a detached header is missing.
        ValueError: if the header is malformed, or describes anything but one volume or one slice of numbers.
    """
    name = path.name
    with path.open("rb") as file:
        content = file.read(MAX_HEADER_BYTES)
    end = END_OF_HEADER.search(content)
    if end is None:
        refuse(name, "a MetaImage header that ends in ElementDataFile", "none")
    fields = _fields(header_text(content[: end.end()], name), name)
    dimensions = sizes([fields["NDims"]], 1, "NDims", name)[0]
    require_two_or_three_axes(dimensions, name)
    shape = sizes(fields["DimSize"].split(), dimensions, "DimSize", name)
    code = TYPES.get(fields["ElementType"])
    if code is None:
        refuse(name, "one number per voxel", f"ElementType {fields['ElementType']}")
    attached = fields["ElementDataFile"].upper() == LOCAL
    compressed = fields.get("CompressedData") == "True"
    affine, notes = _affine(fields, dimensions, name)
    return StoredVolume(
        header=path,
        data=path if attached else data_file(path, fields["ElementDataFile"]),
        offset=end.end() if attached else _header_size(fields, compressed, name),
        encoding="deflate" if compressed else "raw",
        stored=_stored(fields, attached, name) if compressed else None,
        dtype=np.dtype((">" if fields.get("BinaryDataByteOrderMSB") == "True" else "<") + code),
        shape=shape,
        affine=affine,
        notes=notes,
    )


def _fields(text: str, name: str) -> dict[str, str]:
    """Returns the fields by name; synonyms have the name of `ALIASES`."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        match = LINE.fullmatch(line)
        if match is None or not 0 < len(match["key"]) <= MAX_KEY_LENGTH:
            refuse(name, "lines `key = value` in the MetaImage header", line.strip() or "an empty line")
        key = ALIASES.get(match["key"], match["key"])
        if key in fields:
            refuse(name, "each field of the MetaImage header once", f"{key} again")
        fields[key] = match["value"]
    if missing := [key for key in ("NDims", "DimSize", "ElementType", "ElementSpacing") if not fields.get(key)]:
        refuse(name, f"{missing[0]} in the MetaImage header", "none", f"write it into the header, or {EXPORT}")
    early = [key for key in PER_AXIS if key in fields and list(fields).index(key) < list(fields).index("NDims")]
    if early:
        refuse(name, f"NDims before {early[0]}", "it after that", "correct the header")
    for key, values in ONLY.items():
        if key in fields and fields[key] not in values:
            refuse(name, f"{' or '.join(values)} as {key}", fields[key] or "nothing", "save it as a plain volume again")
    return fields


def _header_size(fields: Mapping[str, str], compressed: bool, name: str) -> int:
    """Returns the bytes before the voxels in a data file; -1 if the voxels are its end."""
    text = fields.get("HeaderSize", "0")
    if not re.fullmatch(r"-1|\d{1,9}", text) or (compressed and text != "0"):
        refuse(name, "a HeaderSize within the raw data file", text)
    return int(text)


def _stored(fields: Mapping[str, str], attached: bool, name: str) -> int | None:
    """Returns CompressedDataSize; without it, ITK returns uninitialised memory for an `.mha`."""
    if "CompressedDataSize" not in fields and not attached:
        return None
    return sizes([fields.get("CompressedDataSize", "")], 1, "CompressedDataSize", name)[0]


def _affine(fields: Mapping[str, str], dimensions: int, name: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns the affine to RAS mm, and the assumptions it is based on."""
    if fields.get("DistanceUnits", "").lower() not in MILLIMETRES:
        refuse(name, "DistanceUnits mm", fields["DistanceUnits"], "convert the header to mm")
    notes = ["states no slice thickness: 1 mm is made up, and so is every volume in mL"] if dimensions == 2 else []
    spacing = np.array(numbers(fields["ElementSpacing"].split(), dimensions, "ElementSpacing", name))
    if (spacing <= 0).any():
        refuse(name, "a spacing above 0 mm along each axis as ElementSpacing", fields["ElementSpacing"])
    directions, origin = np.eye(dimensions), [0.0] * dimensions
    if "TransformMatrix" in fields:
        listed = numbers(fields["TransformMatrix"].split(), dimensions**2, "TransformMatrix", name)
        directions = np.reshape(listed, (dimensions, dimensions)).T  # listed axis by axis
        if (abs(np.linalg.norm(directions, axis=0) - 1) > UNIT_TOLERANCE).any():
            refuse(name, "directions of length 1 in TransformMatrix", fields["TransformMatrix"], "correct the header")
    else:
        notes.append("has no TransformMatrix: its axes are taken as left, posterior, superior")
    if "Offset" in fields:
        origin = numbers(fields["Offset"].split(), dimensions, "Offset", name)
    else:
        notes.append("has no Offset: its position is unknown")
    return LPS_TO_RAS @ affine_of(directions * spacing, origin), tuple(notes)

"""NRRD files, the format of 3D Slicer: strict parsing of the header, and writing.

Source: http://teem.sourceforge.net/nrrd/format.html
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, cast

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
from tskd_monai.files.atomic import atomic_path

SEGMENTATION_SUFFIX = ".seg.nrrd"
"""Suffix of Slicer's segmentations; without overlapping segments, the voxels are label values."""

NRRD_SUFFIXES = (SEGMENTATION_SUFFIX, ".nrrd", ".nhdr")
SPATIAL_KINDS = ("domain", "space", "none", "???")

MAGIC = re.compile(rb"NRRD000[1-5]\r?\n")
END_OF_HEADER = re.compile(rb"\n\r?\n")
PAIR = re.compile(r"([^:#]*):=(.*)")
VECTOR = re.compile(r"none|\([^()]*\)")

TYPES: dict[str, str] = {
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    **dict.fromkeys(("longlong", "long long", "long long int", "signed long long", "int64", "int64_t"), "i8"),
    **dict.fromkeys(("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"), "u8"),
    "float": "f4",
    "double": "f8",
}
WRITTEN_TYPES = {"u1": "uint8", "u2": "uint16", "i2": "int16", "f4": "float"}

WORLD_AXES = {
    **dict.fromkeys(("left-posterior-superior", "lps"), LPS_TO_RAS),
    **dict.fromkeys(("right-anterior-superior", "ras"), np.eye(4)),
    **dict.fromkeys(("left-anterior-superior", "las"), np.diag([-1.0, 1.0, 1.0, 1.0])),
}

UNPLACED = ("", "scanner-xyz", "3d-right-handed", "3d-left-handed")
"""Spaces without a stated orientation in the body."""

READ = ("type", "dimension", "space", "spacedimension", "sizes", "spacedirections", "spaceorigin", "spacings",
        "endian", "encoding", "datafile", "byteskip", "spaceunits", "units")  # fmt: skip
BEFORE = {
    "dimension": ("sizes", "spacings", "kinds", "spacedirections"),
    "space": ("spacedirections", "spaceorigin"),
    "spacedimension": ("spacedirections", "spaceorigin"),
}
"""Required order of fields; Teem's parser, which ITK uses, refuses another one."""
DESCRIPTIVE = ("content", "number", "min", "max", "oldmin", "oldmax", "thicknesses", "centers", "centerings", "labels",
               "kinds", "measurementframe", "sampleunits")  # fmt: skip
"""Fields that affect neither the layout of the file nor the geometry."""


def read_nrrd_header(path: Path) -> StoredVolume:
    """Returns the volume that the header of an NRRD file describes.

    Raises:
        FileNotFoundError: if the data file of a detached header is missing.
        ValueError: if the header is malformed, or describes anything but one volume or one slice of numbers.
    """
    fields, _, end = nrrd_fields(path)
    return volume_of(path, fields, end)


def nrrd_fields(path: Path) -> tuple[dict[str, str], dict[str, str], int | None]:
    """Returns the fields of an NRRD header, its key/value pairs, and the position of the voxels; None: in another file.

    Raises:
        ValueError: if the header is malformed.
    """
    name = path.name
    with path.open("rb") as file:
        content = file.read(MAX_HEADER_BYTES)
    if not MAGIC.match(content):
        refuse(name, "an NRRD header", "something else")
    end = END_OF_HEADER.search(content)
    if end is None and len(content) == MAX_HEADER_BYTES:
        refuse(name, f"an NRRD header of at most {MAX_HEADER_BYTES} bytes", "a longer one")
    text = header_text(content[: end.start() + 1] if end else content, name)
    fields = _fields(text, name)
    if end is None and "datafile" not in fields:
        refuse(name, "voxels after the header", "none", "copy or export it again")
    pairs = {match[1]: match[2] for line in text.splitlines() if (match := PAIR.fullmatch(line))}
    return fields, pairs, end.end() if end else None


def volume_of(path: Path, fields: Mapping[str, str], end: int | None) -> StoredVolume:
    """Returns the volume that the fields of an NRRD header describe.

    Args:
        path: file of the header.
        fields: fields by name, from `nrrd_fields`.
        end: position of the voxels in the file.

    Raises:
        FileNotFoundError: if the data file of a detached header is missing.
        ValueError: if they describe anything but one volume or one slice of numbers.
    """
    name, detached = path.name, "datafile" in fields
    dimensions = sizes([fields["dimension"]], 1, "dimension", name)[0]
    _check_kinds(fields, dimensions, name)
    shape = sizes(fields["sizes"].split(), dimensions, "sizes", name)
    encoding = {"raw": "raw", "gzip": "deflate", "gz": "deflate"}.get(fields["encoding"].lower())
    if encoding is None:
        refuse(name, "encoding raw or gzip", fields["encoding"], "save it with one of these")
    affine, notes = _affine(fields, dimensions, name)
    skip = _byte_skip(fields, detached, name)
    return StoredVolume(
        header=path,
        data=data_file(path, fields["datafile"]) if detached else path,
        offset=skip if detached else cast(int, end),
        encoding="raw" if encoding == "raw" else "deflate",
        stored=None,
        dtype=_dtype(fields, name),
        shape=shape,
        affine=affine,
        notes=notes,
    )


def write_nrrd(path: str | Path, voxels: np.ndarray, affine: np.ndarray, compress_level: int = 1) -> None:
    """Writes a volume as `.nrrd`, gzip-compressed, atomically; the same volume gives the same bytes.

    The geometry is written with all digits, so it is read back exactly.

    Args:
        path: path ending in `.nrrd`.
        voxels: voxels (X, Y, Z), uint8, uint16, int16 or float32.
        affine: affine to RAS mm (4, 4).
        compress_level: gzip level, 1 to 9.
    """
    lps = LPS_TO_RAS @ np.asarray(affine, dtype=np.float64) + 0.0  # no -0.0
    vectors = [f"({','.join(repr(float(value)) for value in vector)})" for vector in lps[:3].T]
    header = "\n".join(
        (
            "NRRD0004",
            f"type: {WRITTEN_TYPES[voxels.dtype.str[1:]]}",
            "dimension: 3",
            "space: left-posterior-superior",
            f"sizes: {' '.join(map(str, voxels.shape))}",
            f"space directions: {' '.join(vectors[:3])}",
            "kinds: domain domain domain",
            "endian: little",
            "encoding: gzip",
            f"space origin: {vectors[3]}",
            "\n",
        )
    )
    little = voxels.astype(voxels.dtype.newbyteorder("<"), copy=False)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(header.encode("ascii"))
        with gzip.GzipFile("", "wb", compress_level, cast(BinaryIO, file), mtime=0) as stream:
            stream.write(np.ascontiguousarray(little.T).data)


def _fields(text: str, name: str) -> dict[str, str]:
    """Returns the fields by name, in lower case and without blanks; comments and key/value pairs are ignored."""
    fields: dict[str, str] = {}
    for line in text.splitlines()[1:]:
        if line.startswith("#") or re.match(r"[^:]*:=", line):
            continue
        field, colon, value = line.partition(": ")
        field = re.sub(r"\s", "", field).lower()
        if not colon or field not in READ + DESCRIPTIVE:
            refuse(name, "fields of a volume in the NRRD header", line.strip() or "an empty line")
        if field in fields:
            refuse(name, "each field of the NRRD header once", f"{field} again")
        fields[field] = value.strip()
    if missing := [field for field in ("type", "dimension", "sizes", "encoding") if field not in fields]:
        refuse(name, f"`{missing[0]}` in the NRRD header", "none")
    order = list(fields)
    for first, later in BEFORE.items():
        for field in later:
            if {first, field} <= set(fields) and order.index(first) > order.index(field):
                refuse(name, f"{first} before {field}", "it after that", "correct the header")
    return fields


def _check_kinds(fields: Mapping[str, str], dimensions: int, name: str) -> None:
    """Refuses axes that are not spatial: vectors, colours, time points, layers of segments."""
    kinds = fields.get("kinds", "").lower().split()
    if dimensions > 3 and name.lower().endswith(SEGMENTATION_SUFFIX):
        refuse(
            name,
            "segments in one layer",
            "several layers, as overlapping segments have them",
            "name the segments that are labels (--labels of a folder, `labels` of a datalist)",
        )
    require_two_or_three_axes(dimensions, name)
    if any(kind not in SPATIAL_KINDS for kind in kinds) or ("kinds" in fields and len(kinds) != dimensions):
        refuse(name, "one number per voxel", f"kinds {' '.join(kinds)}", "save each as its own volume")


def _dtype(fields: Mapping[str, str], name: str) -> np.dtype:
    code = TYPES.get(" ".join(fields["type"].lower().split()))
    if code is None:
        refuse(name, "one number per voxel", f"type {fields['type']}")
    endian = fields.get("endian", "little" if code.endswith("1") else "").lower()
    if endian not in ("little", "big"):
        refuse(name, "endian little or big", endian or "none")
    return np.dtype(("<" if endian == "little" else ">") + code)


def _byte_skip(fields: Mapping[str, str], detached: bool, name: str) -> int:
    text = fields.get("byteskip", "0")
    skips = detached and fields["encoding"].lower() == "raw"
    if not re.fullmatch(r"-1|\d{1,9}" if skips else "0", text):
        refuse(name, "a byte skip within the raw data file", text)
    return int(text)


def _affine(fields: Mapping[str, str], dimensions: int, name: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns the affine to RAS mm, and the assumptions it is based on."""
    for field in ("spaceunits", "units"):
        units = re.findall(r'"([^"]*)"', fields.get(field, ""))
        if any(unit.strip().lower() not in MILLIMETRES for unit in units):
            refuse(name, f"{field} in mm", fields[field], "convert the header to mm")
    notes = ["states no slice thickness: 1 mm is made up, and so is every volume in mL"] if dimensions == 2 else []
    space, found = fields.get("space", "").lower(), fields.get("spacedimension", "")
    if found != (str(dimensions) if not space and {"spacedirections", "spaceorigin"} & set(fields) else ""):
        refuse(
            name, "a space, or a space dimension that is the number of axes", found or "neither", "correct the header"
        )
    to_ras = WORLD_AXES.get(space)
    if to_ras is None:
        if space not in UNPLACED:
            refuse(name, "a space of three dimensions", space, "correct the header")
        found = f"space {space}" if space else "no space"
        notes.append(f"has {found}: its axes are taken as left, posterior, superior; left/right are unknown")
        to_ras = LPS_TO_RAS
    elif dimensions == 2:
        refuse(
            name, "three axes in a space of three dimensions", "one slice", "save the slice as a volume of one slice"
        )
    if "spacedirections" in fields:
        columns = np.transpose(_vectors(fields["spacedirections"], dimensions, "space directions", name))
    elif "spacings" in fields:
        columns = np.diag(numbers(fields["spacings"].split(), dimensions, "spacings", name))
    else:
        refuse(name, "`space directions` or `spacings` in mm", "neither", f"write them into the header, or {EXPORT}")
    origin = [0.0] * dimensions
    if "spaceorigin" in fields:
        (origin,) = _vectors(fields["spaceorigin"], dimensions, "space origin", name, count=1)
    else:
        notes.append("has no space origin: its position is unknown")
    return to_ras @ affine_of(columns, origin), tuple(notes)


def _vectors(text: str, dimensions: int, what: str, name: str, count: int | None = None) -> list[list[float]]:
    """Returns vectors such as `(1,0,0) (0,1,0) (0,0,1)`."""
    expected = dimensions if count is None else count
    found = VECTOR.findall(text)
    rest = VECTOR.sub("", text).strip()
    if len(found) != expected or rest or "none" in found:
        refuse(name, f"{expected} vector(s) as {what}", text, "correct the header")
    parts = [[item.strip() for item in vector[1:-1].split(",")] for vector in found]
    return [numbers(part, dimensions, what, name) for part in parts]

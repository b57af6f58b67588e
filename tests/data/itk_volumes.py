"""Volumes written as NRRD and MetaImage by hand, so that every field of a header can be changed."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

TYPES = {
    "i1": ("int8", "MET_CHAR"), "u1": ("uint8", "MET_UCHAR"), "i2": ("short", "MET_SHORT"),
    "u2": ("unsigned short", "MET_USHORT"), "i4": ("int", "MET_INT"), "u4": ("unsigned int", "MET_UINT"),
    "i8": ("long long", "MET_LONG_LONG"), "u8": ("uint64", "MET_ULONG_LONG"), "f4": ("float", "MET_FLOAT"),
    "f8": ("double", "MET_DOUBLE"),
}  # fmt: skip
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
Fields = Mapping[str, str | None]


def write_nrrd_file(
    path: Path, voxels: np.ndarray, affine: np.ndarray, fields: Fields | None = None, data: bytes | None = None
) -> Path:
    """Writes an NRRD file; `.nhdr` with its data file.

    Args:
        path: ends in `.nrrd` or `.nhdr`.
        voxels: (X, Y, Z).
        affine: to RAS mm.
        fields: to set in the header, or to leave out where None.
        data: instead of the voxels' own bytes.
    """
    lps = LPS @ affine
    vectors = [f"({','.join(map(repr, vector.tolist()))})" for vector in lps[:3].T]
    header: dict[str, str | None] = {
        "type": TYPES[voxels.dtype.str[1:]][0],
        "dimension": str(voxels.ndim),
        "space": "left-posterior-superior",
        "space dimension": None,
        "sizes": " ".join(map(str, voxels.shape)),
        "space directions": " ".join(vectors[:3]),
        "kinds": "domain domain domain",
        "endian": "big" if voxels.dtype.byteorder == ">" else "little",
        "encoding": "gzip",
        "space origin": vectors[3],
        **({"data file": f"{path.stem}.raw.gz"} if path.suffix == ".nhdr" else {}),
        **(fields or {}),
    }
    raw = voxels.tobytes(order="F")
    content = data if data is not None else raw if header["encoding"] == "raw" else gzip.compress(raw, mtime=0)
    lines = [f"{key}: {value}" for key, value in header.items() if value is not None]
    text = "\n".join(["NRRD0005", "# written by a test", *lines, "Segment0_Name:=liver", ""]).encode()
    if header.get("data file") is None:
        path.write_bytes(text + b"\n" + content)
    else:
        path.write_bytes(text)
        (path.parent / str(header["data file"])).write_bytes(content)
    return path


def write_meta_image(
    path: Path, voxels: np.ndarray, affine: np.ndarray, fields: Fields | None = None, data: bytes | None = None
) -> Path:
    """Writes a MetaImage file, `.mhd` with its data file; arguments as those of `write_nrrd_file`."""
    lps = LPS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    raw = voxels.tobytes(order="F")
    compressed = (fields or {}).get("CompressedData", "True") == "True"
    content = data if data is not None else zlib.compress(raw) if compressed else raw
    header: dict[str, str | None] = {
        "ObjectType": "Image",
        "NDims": str(voxels.ndim),
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": str(voxels.dtype.byteorder == ">"),
        "CompressedData": "True",
        "CompressedDataSize": str(len(content)) if compressed else None,
        "TransformMatrix": " ".join(map(repr, (lps[:3, :3] / spacing).T.ravel().tolist())),
        "Offset": " ".join(map(repr, lps[:3, 3].tolist())),
        "ElementSpacing": " ".join(map(repr, spacing.tolist())),
        "Modality": "MET_MOD_MR",
        "0008|103e": "T2 of a test",
        "DimSize": " ".join(map(str, voxels.shape)),
        "ElementType": TYPES[voxels.dtype.str[1:]][1],
        "ElementDataFile": f"{path.stem}.zraw" if path.suffix == ".mhd" else "LOCAL",
        **(fields or {}),
    }
    header["ElementDataFile"] = header.pop("ElementDataFile")  # the last one
    text = "".join(f"{key} = {value}\n" for key, value in header.items() if value is not None).encode()
    local = header["ElementDataFile"] == "LOCAL"
    path.write_bytes(text + (content if local else b""))
    if not local:
        (path.parent / str(header["ElementDataFile"])).write_bytes(content)
    return path


def write_volume(path: Path, voxels: np.ndarray, affine: np.ndarray) -> Path:
    """Writes a volume in the format that the ending names."""
    write = write_nrrd_file if path.suffix in (".nrrd", ".nhdr") else write_meta_image
    return write(path, voxels, affine)

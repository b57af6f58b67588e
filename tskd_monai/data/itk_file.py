"""NRRD and MetaImage volumes, read by ITK after their headers and compressed streams have been checked.

ITK allocates memory by the header, returns uninitialised memory for some damaged streams, and ignores the geometry of
some files. Therefore the header is parsed first, the stream is decoded to its end and checksum, and the grid that ITK
returns is compared with that of the header. Loading `itk` takes seconds, so it is imported for such files only.
"""

from __future__ import annotations

import logging
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from tskd_monai.data.grid import checked_affine, same_grid
from tskd_monai.data.meta_image import META_IMAGE_SUFFIXES, read_meta_image_header
from tskd_monai.data.nifti import warn_of_not_finite
from tskd_monai.data.nrrd import NRRD_SUFFIXES, read_nrrd_header
from tskd_monai.data.stored_volume import LPS_TO_RAS, StoredVolume
from tskd_monai.files.limits import DEFLATE_MAX_RATIO, check_held, check_voxel_count, damage_explained

logger = logging.getLogger(__name__)

ITK_SUFFIXES = (*NRRD_SUFFIXES, *META_IMAGE_SUFFIXES)

PIXELS = {"u1": "UC", "i2": "SS", "u2": "US", "i4": "SI", "u4": "UI", "f4": "F", "f8": "D"}
"""ITK's names of the types of which its Python package has images; other types are read as float32."""
ANY_ZLIB_HEADER = 47
"""`wbits` of zlib for both gzip and zlib streams."""
BLOCK = 1 << 20


def read_itk(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns the voxels and the affine of an NRRD or MetaImage file.

    A 2D file is read as one slice. NaN and infinite voxels are kept and counted in a warning.

    Args:
        path: path of a `.nrrd`, `.nhdr`, `.mha` or `.mhd` file; the data file of a detached header is in its folder.

    Returns:
        Voxels, float32 (X, Y, Z), integers exact up to 2^24, and the affine to RAS mm, float64 (4, 4).

    Raises:
        FileNotFoundError: if the file or its data file is missing.
        ValueError: if the file is damaged, declares more data than it contains, contains several volumes, colours or
            vectors, or has no spacing, or an affine that is not invertible or not in mm.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"Expected a volume at {path}, found none; check the path in the datalist.")
    volume = read_header(path)
    check_held(volume.voxel_bytes, volume.data.stat().st_size, compression_ratio(volume), volume.title)
    check_voxel_count(volume.voxel_count, volume.title)
    affine = checked_affine(volume.affine, path.name)
    check_stream(volume)
    for note in volume.notes:
        logger.warning("%s %s.", path.name, note)
    voxels = _read_by_itk(volume)
    warn_of_not_finite(voxels, path.name)
    return voxels, affine


def read_header(path: Path) -> StoredVolume:
    """Returns the volume that the header of an NRRD or MetaImage file describes; raises as `read_itk`."""
    is_nrrd = path.name.lower().endswith(NRRD_SUFFIXES)
    return read_nrrd_header(path) if is_nrrd else read_meta_image_header(path)


def data_files(path: Path) -> list[Path]:
    """Returns the data file of a detached header; none for other files and malformed headers."""
    if not path.name.lower().endswith(ITK_SUFFIXES):
        return []
    try:
        volume = read_header(path)
    except (ValueError, OSError):  # reported when the image is read
        return []
    return [] if volume.data == volume.header else [volume.data]


def compression_ratio(volume: StoredVolume) -> int:
    """Returns the largest number of voxel bytes per byte of the file."""
    return DEFLATE_MAX_RATIO if volume.encoding == "deflate" else 1


def check_stream(volume: StoredVolume) -> None:
    """Raises ValueError for data whose size differs from that in the header, or that does not match its checksum."""
    size = volume.data.stat().st_size
    if volume.encoding == "raw":
        expected = size if volume.offset < 0 else volume.offset + volume.voxel_bytes
        if size != expected or size < volume.voxel_bytes:
            raise _damaged(volume, f"{volume.voxel_bytes} bytes of voxels", f"{size - max(volume.offset, 0)}")
        return
    if volume.stored is not None and size != volume.offset + volume.stored:
        raise _damaged(volume, f"{volume.stored} compressed bytes", f"{size - volume.offset}")
    count = _inflated_size(volume)
    if count != volume.voxel_bytes:
        raise _damaged(volume, f"{volume.voxel_bytes} bytes of voxels", f"{count} or more")


def _inflated_size(volume: StoredVolume) -> int:
    """Returns the decoded size of a stream, checksum verified; stops at more than the header states."""
    decoder, count = zlib.decompressobj(ANY_ZLIB_HEADER), 0
    with volume.data.open("rb") as file:
        file.seek(volume.offset)
        pending = b""
        while not decoder.eof and count <= volume.voxel_bytes:
            if not pending and not (pending := file.read(BLOCK)):
                raise _damaged(volume, "a compressed stream with an end", "none")
            with damage_explained("volume", volume.title):
                count += len(decoder.decompress(pending, BLOCK))
            pending = decoder.unconsumed_tail
        if decoder.eof and (decoder.unused_data or file.read(1)):
            raise _damaged(volume, "the end of the file after its voxels", "more bytes")
    return count


def _damaged(volume: StoredVolume, expected: str, found: str) -> ValueError:
    return ValueError(
        f"Expected {expected} by the header of {volume.title}, found {found}; the file is truncated or "
        "damaged: copy or export it again."
    )


def _read_by_itk(volume: StoredVolume) -> np.ndarray:
    """Returns the voxels, float32 (X, Y, Z), in Fortran order as in the file."""
    # About its SWIG wrappers; for the whole process, because one is issued when Python exits.
    warnings.filterwarnings("ignore", "builtin type swig", DeprecationWarning)
    import itk

    pixel = getattr(itk, PIXELS.get(volume.dtype.str[1:], "F"))
    reader = itk.ImageFileReader[itk.Image[pixel, 3]].New()
    is_nrrd = volume.header.name.lower().endswith(NRRD_SUFFIXES)
    reader.SetImageIO(itk.NrrdImageIO.New() if is_nrrd else itk.MetaImageIO.New())
    try:
        reader.SetFileName(str(volume.header))
        reader.Update()
    except (RuntimeError, TypeError) as error:  # its message names folders; TypeError: a path that is not Unicode
        raise ValueError(
            f"Expected a volume that ITK reads in {volume.title}, found that it refuses the file; export the image "
            "again."
        ) from error
    image = reader.GetOutput()
    stored, affine = itk.array_view_from_image(image), LPS_TO_RAS @ _itk_affine(image)
    shape = (*volume.shape, 1)[:3]
    if stored.shape[::-1] != shape or not same_grid(shape, volume.affine, affine):
        raise ValueError(
            f"Expected {shape} voxels at {volume.affine[:3].tolist()} by the header of {volume.title}, found "
            f"{stored.shape[::-1]} at {affine[:3].tolist()} by ITK; export the image again."
        )
    with np.errstate(over="ignore"):  # float64 beyond the range of float32 becomes infinite, and is counted
        return np.array(stored.T, dtype=np.float32, order="F")  # a copy, because ITK frees its buffer


def _itk_affine(image: Any) -> np.ndarray:
    """Returns the affine of an ITK image to LPS mm."""
    import itk

    affine = np.eye(4)
    affine[:3, :3] = itk.array_from_matrix(image.GetDirection()) * np.array(image.GetSpacing())
    affine[:3, 3] = np.array(image.GetOrigin())
    return affine

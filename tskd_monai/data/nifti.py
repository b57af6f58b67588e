"""NIfTI volumes, read whole and with their geometry checked."""

from __future__ import annotations

import gzip
import logging
import math
from pathlib import Path
from typing import Any, BinaryIO, cast

import nibabel as nib
import numpy as np

from tskd_monai.data.damage import damage_explained

logger = logging.getLogger(__name__)

GRID_TOLERANCE_MM = 0.1
"""Two affines put a volume at the same place when no corner of it moves further than this."""

SHEAR_TOLERANCE = 1e-3
"""Largest cosine between two axes that is worth no line in the log: affines are stored in single precision."""

GZIP_MAX_RATIO = 1032
"""Deflate packs at most so many bytes into one."""

GZIP_MAGIC = b"\x1f\x8b"
NON_MILLIMETRE_UNITS = ("meter", "micron")
IMAGE_CLASSES: dict[int, Any] = {348: nib.Nifti1Image, 540: nib.Nifti2Image}
"""By the first field of the header, `sizeof_hdr`."""


def read_nifti(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns the voxels and the affine of a NIfTI file.

    The file is read to its end, so a truncated or altered `.nii.gz` never passes (nibabel alone stops before the
    checksum), and nothing is memory-mapped. NaN and infinite voxels are kept and counted in a warning.

    Args:
        path: a `.nii` or `.nii.gz` file with one volume.

    Returns:
        Voxels, float32 (X, Y, Z), header scaling applied, and the affine to RAS mm, float64 (4, 4).

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the file is damaged, holds several volumes, colour or complex voxels, or has an affine that
            is not invertible or not in mm.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"Expected a NIfTI file at {path}, found none; check the path in the datalist.")
    header, voxels = _read_whole(path)
    affine = _checked_affine(header, path.name)
    count = voxels.size - int(np.isfinite(voxels).sum())
    if count:
        logger.warning("%s has %d voxels that are NaN or infinite; they are kept.", path.name, count)
    return voxels, affine


def corner_distance(shape: tuple[int, ...], first: np.ndarray, second: np.ndarray) -> float:
    """Returns how far apart two affines put the corners of a volume: the largest of the eight distances, mm.

    Args:
        shape: of the volume, three voxel counts.
        first: affine (4, 4).
        second: affine (4, 4).
    """
    corners = np.array(np.meshgrid(*[(0, max(size - 1, 1)) for size in shape], indexing="ij")).reshape(3, -1)
    moved = (first - second) @ np.vstack([corners, np.ones(corners.shape[1])])
    return float(np.linalg.norm(moved[:3], axis=0).max())


def _read_whole(path: Path) -> tuple[nib.Nifti1Header, np.ndarray]:
    """Returns the header and the scaled voxels, float32 (X, Y, Z)."""
    compressed = path.name.lower().endswith(".gz")
    with path.open("rb") as file:
        magic = file.read(2)
    if compressed != (magic == GZIP_MAGIC):
        found = "gzip data" if magic == GZIP_MAGIC else "no gzip data"
        raise ValueError(
            f"Expected {'gzip data' if compressed else 'an uncompressed file'} in {path.name}, found {found}; "
            f"rename it to {'.nii' if compressed else '.nii.gz'} if it is otherwise intact."
        )
    with cast(BinaryIO, gzip.open(path, "rb")) if compressed else path.open("rb") as stream:
        with damage_explained("NIfTI file", path.name):
            image_class = IMAGE_CLASSES.get(_header_size(stream))
        if image_class is None:
            raise ValueError(f"Expected a NIfTI header in {path.name}, found something else; export the image again.")
        with damage_explained("NIfTI file", path.name):
            image = image_class.from_file_map(image_class.make_file_map({"image": stream}), mmap=False)
        if image.get_data_dtype().kind not in "iuf":
            raise ValueError(
                f"Expected one number per voxel in {path.name}, found {image.get_data_dtype()}; "
                "export colour channels or real and imaginary parts as separate images."
            )
        shape = _volume_shape(image.shape, path.name)
        _require_voxels_fit(image, path, compressed)
        with damage_explained("NIfTI file", path.name):
            voxels = image.get_fdata(caching="unchanged", dtype=np.float32).reshape(shape, order="F")
            while stream.read(1 << 20):  # to the end: gzip compares its checksum there
                pass
    return image.header, voxels


def _require_voxels_fit(image: Any, path: Path, compressed: bool) -> None:
    """Refuses a header that claims more voxels than the file can hold, before memory is taken for them."""
    claimed = math.prod(int(size) for size in image.shape) * image.get_data_dtype().itemsize
    largest = path.stat().st_size * (GZIP_MAX_RATIO if compressed else 1)
    if claimed > largest:
        raise ValueError(
            f"Expected a complete NIfTI file, found {path.name} truncated or damaged (its header claims {claimed} "
            f"bytes of voxels, the file holds {largest} at most); copy or export it again."
        )


def _header_size(stream: BinaryIO) -> int:
    """Returns the header's first field in either byte order, and rewinds the stream."""
    field = stream.read(4)
    stream.seek(0)
    sizes = (int.from_bytes(field, "little"), int.from_bytes(field, "big"))
    return next((size for size in sizes if size in IMAGE_CLASSES), 0)


def _volume_shape(shape: tuple[int, ...], name: str) -> tuple[int, int, int]:
    """Returns the shape as (X, Y, Z): trailing axes of length one are dropped, missing ones added."""
    if 0 in shape or not shape:
        raise ValueError(f"Expected voxels in {name}, found shape {shape}; export the image again.")
    count = int(np.prod(shape[3:]))
    if count > 1:
        raise ValueError(
            f"Expected one 3D volume in {name}, found {count} volumes (shape {shape}); "
            "save the one to segment as its own file."
        )
    if len(shape) != 3:
        logger.warning("%s has shape %s; it is read as one 3D volume.", name, shape)
    x, y, z = (*shape, 1, 1)[:3]
    return x, y, z


def _checked_affine(header: nib.Nifti1Header, name: str) -> np.ndarray:
    """Returns the affine to RAS mm: the sform, else the qform, else pixdim alone; says so when there was a choice."""
    try:
        unit = header.get_xyzt_units()[0]
    except KeyError:
        unit = "unknown"
    if unit in NON_MILLIMETRE_UNITS:
        raise ValueError(f"Expected coordinates in mm in {name}, found {unit}; convert the header to mm.")
    sform, sform_code = header.get_sform(coded=True)
    try:
        qform, qform_code = header.get_qform(coded=True)
    except ValueError as error:
        raise ValueError(f"Expected a unit quaternion in the qform of {name}: {error}; repair the header.") from error
    if sform_code > 0:
        affine = sform
        shape = (*header.get_data_shape(), 1, 1)[:3]
        distance = corner_distance(shape, sform, qform) if qform_code > 0 else 0.0
        if distance > GRID_TOLERANCE_MM:
            logger.warning("%s: sform and qform disagree by %.3g mm; the sform is used.", name, distance)
    elif qform_code > 0:
        affine = qform
    else:
        affine = header.get_base_affine()
        logger.warning(
            "%s has neither qform nor sform: spacing comes from pixdim alone, position and left/right are unknown.",
            name,
        )
    volume = abs(np.linalg.det(affine[:3, :3])) if np.isfinite(affine).all() else 0.0
    if volume < np.finfo(np.float32).tiny or np.linalg.cond(affine[:3, :3]) > 1e6:
        raise ValueError(f"Expected an invertible affine in {name}, found {affine[:3].tolist()}; repair the header.")
    _notice_shear(affine, name)
    return np.array(affine, dtype=np.float64)


def _notice_shear(affine: np.ndarray, name: str) -> None:
    """Says so when the axes are not at right angles: the network sees such a volume interpolated."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    cosine = float(np.abs(axes.T @ axes - np.eye(3)).max())
    if cosine > SHEAR_TOLERANCE:
        angle = float(np.degrees(np.arcsin(cosine)))
        logger.warning("%s: its axes are sheared by %.1f degrees; they are resampled for the network.", name, angle)

"""NIfTI volumes: reading to the end of the file with the geometry checked, and atomic writing.

All NIfTI files are read and written by this module.
"""

from __future__ import annotations

import gzip
import logging
import math
from pathlib import Path
from typing import Any, BinaryIO, cast

import nibabel as nib
import numpy as np

from tskd_monai.data.grid import checked_affine, corner_distance, same_grid
from tskd_monai.files.atomic import atomic_path
from tskd_monai.files.limits import DEFLATE_MAX_RATIO, check_held, check_voxel_count, damage_explained

logger = logging.getLogger(__name__)

NIFTI_SUFFIXES = (".nii", ".nii.gz")

MAX_BESIDE_VOXELS = 2**26
"""Largest number of bytes before the voxels (header extensions) and after them."""

SCANNER_ANATOMICAL = 1
"""NIFTI_XFORM_SCANNER_ANAT: scanner coordinates, without registration."""

GZIP_MAGIC = b"\x1f\x8b"
NON_MILLIMETRE_UNITS = ("meter", "micron")
IMAGE_CLASSES: dict[int, Any] = {348: nib.Nifti1Image, 540: nib.Nifti2Image}
"""NIfTI classes by the first field of the header, `sizeof_hdr`."""


def read_nifti(path: str | Path, volume: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Returns the voxels and the affine of a NIfTI file.

    The file is read to its end, so that truncated or altered `.nii.gz` files are refused (nibabel stops before the
    checksum), and nothing is memory-mapped. NaN and infinite voxels are kept and counted in a warning.

    Args:
        path: `.nii` or `.nii.gz` file.
        volume: index along the fourth axis; None for a file with one volume.

    Returns:
        Voxels, float32 (X, Y, Z), header scaling applied, and the affine to RAS mm, float64 (4, 4).

    Raises:
        FileNotFoundError: when the file does not exist.
        ValueError: when the file is damaged, states more voxels than it can hold, has several volumes and none is
            chosen, has colour or complex voxels, has an affine that is not invertible or not in mm, or has no spacing.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"Expected a NIfTI file at {path}, found none; check the path in the datalist.")
    header, voxels = _read_whole(path, volume)
    affine = _checked_affine(header, path.name)
    warn_of_not_finite(voxels, path.name)
    return voxels, affine


def warn_of_not_finite(voxels: np.ndarray, name: str) -> None:
    """Logs a warning with the number of NaN and infinite voxels of a file, if there are any."""
    with np.errstate(invalid="ignore"):  # for infinite voxels of both signs
        total = voxels.sum(dtype=np.float64)
    if not np.isfinite(total):  # caused by any NaN or infinite voxel
        count = voxels.size - int(np.isfinite(voxels).sum())
        logger.warning("%s has %d voxels that are NaN or infinite; they are kept.", name, count)


def write_nifti(path: str | Path, voxels: np.ndarray, affine: np.ndarray, compress_level: int = 1) -> None:
    """Writes a volume as `.nii` or `.nii.gz`, atomically; the same volume gives the same bytes.

    sform and qform are both set, with code 1 (scanner anatomical), so that readers that prefer either agree. A sheared
    affine, which a qform cannot represent, is written only as sform.

    Args:
        path: ends in `.nii` or `.nii.gz`.
        voxels: (X, Y, Z), in the type to store.
        affine: to RAS mm (4, 4).
        compress_level: gzip level, 1 (six times as fast as 6 on label maps, and little larger) to 9.
    """
    image = nib.Nifti1Image(voxels, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=SCANNER_ANATOMICAL)
    image.set_qform(affine, code=SCANNER_ANATOMICAL)
    if not same_grid(voxels.shape, affine, image.get_qform()):
        image.header["qform_code"] = 0
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        if _is_compressed(temporary):
            # no name and no time in the gzip header, which would hold the temporary name
            with gzip.GzipFile("", "wb", compress_level, cast(BinaryIO, file), mtime=0) as stream:
                image.to_stream(stream)
        else:
            image.to_stream(file)


def _is_compressed(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


def _read_whole(path: Path, volume: int | None) -> tuple[nib.Nifti1Header, np.ndarray]:
    """Returns the header and the scaled voxels of one volume, float32 (X, Y, Z)."""
    compressed = _is_compressed(path)
    with path.open("rb") as file:
        magic = file.read(2)
    if compressed != (magic == GZIP_MAGIC):
        found = "gzip data" if magic == GZIP_MAGIC else "no gzip data"
        raise ValueError(
            f"Expected {'gzip data' if compressed else 'an uncompressed file'} in {path.name}, found {found}; "
            f"rename it to {'.nii' if compressed else '.nii.gz'} if it is otherwise intact."
        )
    with _opened(path) as stream:
        image_class = _checked_class(stream, path)
        with damage_explained("NIfTI file", path.name):
            image = image_class.from_file_map(image_class.make_file_map({"image": stream}), mmap=False)
        if image.get_data_dtype().kind not in "iuf":
            raise ValueError(
                f"Expected one number per voxel in {path.name}, found {image.get_data_dtype()}; "
                "export colour channels or real and imaginary parts as separate images."
            )
        shape = _volume_shape(image.shape, path.name, volume)
        with damage_explained("NIfTI file", path.name):
            voxels = image.get_fdata(caching="unchanged", dtype=np.float32)
        voxels = (voxels if volume is None else voxels[..., volume]).reshape(shape, order="F")
        _read_to_end(stream, path.name)
    return image.header, voxels


def _opened(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb")) if _is_compressed(path) else path.open("rb")


def _checked_class(stream: BinaryIO, path: Path) -> Any:
    """Returns nibabel's class for the file, with its header validated before allocation, and rewinds the stream."""
    with damage_explained("NIfTI file", path.name):
        image_class = IMAGE_CLASSES.get(_header_size(stream))
    if image_class is None:
        raise ValueError(f"Expected a NIfTI header in {path.name}, found something else; export the image again.")
    with damage_explained("NIfTI file", path.name):
        block = stream.read(image_class.header_class.template_dtype.itemsize)
        stream.seek(0)
    if len(block) == image_class.header_class.template_dtype.itemsize:  # otherwise nibabel reports it
        header = image_class.header_class(block, check=False)
        _check_claims(header, path)
        _check_spacing(header, path.name)
    return image_class


def _check_claims(header: nib.Nifti1Header, path: Path) -> None:
    """Refuses a header that states more voxels than an image may have, or than its file can hold."""
    count, offset = math.prod(int(size) for size in header.get_data_shape()), float(header["vox_offset"])
    try:
        voxel_bytes = header.get_data_dtype().itemsize
    except KeyError:  # a type that nibabel refuses
        voxel_bytes = 1
    ratio = DEFLATE_MAX_RATIO if _is_compressed(path) else 1
    check_held(count * voxel_bytes, path.stat().st_size, ratio, path.name)
    check_voxel_count(count, path.name)
    if not offset <= MAX_BESIDE_VOXELS:
        raise ValueError(
            f"Expected voxels within the first {MAX_BESIDE_VOXELS} bytes of {path.name}, found vox_offset {offset:g}; "
            "export the image again."
        )


def _check_spacing(header: nib.Nifti1Header, name: str) -> None:
    """Refuses an impossible spacing where the geometry depends on it; nibabel reads 0 as 1 mm, and x as |x|.

    Args:
        header: header as in the file, not repaired.
        name: name of the file.
    """
    if header["sform_code"] > 0:
        return  # the sform states the geometry without it
    spacing, sizes = np.asarray(header["pixdim"][1:4], dtype=np.float64), (*header.get_data_shape(), 1, 1, 1)[:3]
    missing = ~np.isfinite(spacing) | (spacing == 0)
    if any(bad and size > 1 for bad, size in zip(missing, sizes, strict=True)):
        raise ValueError(
            f"Expected a spacing above 0 mm along each axis in the pixdim of {name}, found {spacing.tolist()}; write "
            "it into the header, or convert the original images again."
        )
    if missing.any():
        logger.warning("%s states no slice thickness: 1 mm is made up, and so is every volume in mL.", name)
    if (spacing < 0).any():
        logger.warning("%s has a negative spacing in pixdim, %s; it is read as positive.", name, spacing.tolist())


def _read_to_end(stream: BinaryIO, name: str) -> None:
    """Reads the bytes after the voxels: gzip compares its checksum at the end."""
    left = MAX_BESIDE_VOXELS
    with damage_explained("NIfTI file", name):
        while left > 0 and (block := stream.read(1 << 20)):
            left -= len(block)
    if left <= 0:
        raise ValueError(f"Expected the end of {name} after its voxels, found more than {MAX_BESIDE_VOXELS} bytes.")


def _header_size(stream: BinaryIO) -> int:
    """Returns the header's first field in either byte order, and rewinds the stream."""
    field = stream.read(4)
    stream.seek(0)
    sizes = (int.from_bytes(field, "little"), int.from_bytes(field, "big"))
    return next((size for size in sizes if size in IMAGE_CLASSES), 0)


def _volume_shape(shape: tuple[int, ...], name: str, volume: int | None) -> tuple[int, int, int]:
    """Returns the shape of one volume as (X, Y, Z): trailing axes of length one are dropped, missing ones added."""
    if 0 in shape or not shape:
        raise ValueError(f"Expected voxels in {name}, found shape {shape}; export the image again.")
    if volume is not None:
        if len(shape) != 4 or not 0 <= volume < shape[3]:
            raise ValueError(
                f"Expected a fourth axis with volume {volume} in {name}, found shape {shape}; choose another one."
            )
        return shape[0], shape[1], shape[2]
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
    """Returns the affine to RAS mm: sform, else qform, else pixdim; warns when the first two differ or are missing."""
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
        if qform_code > 0 and not same_grid(shape, sform, qform):
            distance = corner_distance(shape, sform, qform)
            logger.warning("%s: sform and qform disagree by %.3g mm; the sform is used.", name, distance)
    elif qform_code > 0:
        affine = qform
    else:
        affine = header.get_base_affine()
        logger.warning(
            "%s has neither qform nor sform: spacing comes only from pixdim, position and left/right are unknown.",
            name,
        )
    return checked_affine(affine, name)

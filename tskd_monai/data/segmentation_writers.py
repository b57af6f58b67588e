"""Atomic writers of label maps as NIfTI, NRRD or PNG files, on exactly the grid of their image."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import DtypeLike, NdarrayOrTensor, PathLike
from monai.data import ImageWriter
from monai.utils import convert_to_numpy
from PIL import Image

from tskd_monai.data.grid import corner_distance, same_grid
from tskd_monai.data.nifti import NIFTI_SUFFIXES, write_nifti
from tskd_monai.data.nrrd import write_nrrd
from tskd_monai.data.output_names import image_title
from tskd_monai.files.atomic import atomic_path

logger = logging.getLogger(__name__)

LABEL_DTYPES = (np.uint8, np.uint16)


class LabelMapWriter(ImageWriter):
    """Base class of the writers: a label map is checked against its image's grid, and never resampled.

    Args:
        output_dtype: uint8, uint16, or None for the smaller type that holds the values.
        scale: part of `SaveImaged`'s interface; label maps are not scaled.

    Raises:
        ValueError: when `output_dtype` is another type, or `scale` is given.
    """

    def __init__(self, output_dtype: DtypeLike = np.uint8, scale: int | None = None) -> None:
        super().__init__()
        if output_dtype is not None and np.dtype(output_dtype) not in LABEL_DTYPES:
            raise ValueError(
                f"Expected uint8, uint16 or None for a label map, found {np.dtype(output_dtype)}; "
                "set output_dtype of SaveImaged."
            )
        if scale is not None:
            raise ValueError(f"Expected no scale for a label map, found {scale}; remove scale from SaveImaged.")
        self.output_dtype = output_dtype
        self.labels_array = np.zeros((0, 0, 0), np.uint8)
        self.affine = np.eye(4)
        self.metadata: dict[str, Any] = {}

    def set_data_array(
        self, data_array: NdarrayOrTensor, channel_dim: int | None = 0, squeeze_end_dims: bool = True, **kwargs: Any
    ) -> None:
        """Sets the label map.

        Args:
            data_array: (1, X, Y, Z), or (X, Y, Z) with `channel_dim` None; whole numbers in the range of the type.
            channel_dim: axis of length one to drop.
            squeeze_end_dims: part of MONAI's interface; the shape is always the image's.
            kwargs: part of MONAI's interface; no option is supported.

        Raises:
            TypeError: when an option is given.
            ValueError: when there are several channels, or a value is not a whole number in the range of the type.
        """
        if kwargs:
            raise TypeError(f"Expected no writer options, found {sorted(kwargs)}; remove them.")
        # `convert_to_numpy` would copy it to C order, while files are written slice by slice: 1 s for a CT.
        array = np.asarray(data_array.detach().cpu() if isinstance(data_array, torch.Tensor) else data_array)
        if channel_dim is not None:
            if array.shape[channel_dim] != 1:
                raise ValueError(
                    f"Expected one channel in a label map, found {array.shape[channel_dim]}; "
                    "place AsDiscreted(argmax=True) before SaveImaged."
                )
            array = array.squeeze(channel_dim)
        if array.ndim != 3:
            raise ValueError(f"Expected a label map with three spatial axes, found shape {array.shape}.")
        self.labels_array = _as_labels(array, self.output_dtype)

    def set_metadata(self, meta_dict: Mapping[str, Any] | None, resample: bool = False, **options: Any) -> None:
        """Sets the image's metadata and checks the label map against its grid.

        Args:
            meta_dict: metadata with `affine`, `original_affine` and `spatial_shape`, as from `VolumeReader` and
                `Invertd`.
            resample: part of `SaveImaged`'s interface; a label map on the image's own grid needs no resampling, and
                others are refused.
            options: part of `SaveImaged`'s interface, used for resampling only.

        Raises:
            ValueError: when metadata are missing or the label map is not on the image's grid.
        """
        missing = [key for key in ("affine", "original_affine", "spatial_shape") if key not in (meta_dict or {})]
        if meta_dict is None or missing:
            raise ValueError(f"Expected the image's metadata, found no {', '.join(missing)}; load with VolumeReader.")
        name = image_title(meta_dict)
        shape = tuple(int(size) for size in meta_dict["spatial_shape"])
        affine, original = (np.asarray(convert_to_numpy(meta_dict[k]), float) for k in ("affine", "original_affine"))
        if self.labels_array.shape != shape:
            raise ValueError(
                f"Expected a label map of {shape} for {name}, found {self.labels_array.shape}; "
                "place Invertd before SaveImaged."
            )
        if not same_grid(shape, original, affine):
            raise ValueError(
                f"Expected a label map at the position of {name}, found it "
                f"{corner_distance(shape, affine, original):.3g} mm off; "
                "place Invertd before SaveImaged."
            )
        self.affine = original  # not `affine`, which the inversion may have rounded
        self.metadata = dict(meta_dict)


class AtomicVolumeWriter(LabelMapWriter):
    """Writes a label map as `.nii`, `.nii.gz` or `.nrrd`, by the suffix of the file name.

    In NIfTI, sform and qform are both set if the affine is orthogonal, see `tskd_monai.data.nifti.write_nifti`.

    Args:
        output_dtype: uint8, uint16, or None for the smaller type that holds the values.
        scale: part of `SaveImaged`'s interface; label maps are not scaled.
        compress_level: gzip level, 1 (six times as fast as 6 on label maps, and little larger) to 9.
    """

    def __init__(self, output_dtype: DtypeLike = np.uint8, scale: int | None = None, compress_level: int = 1) -> None:
        super().__init__(output_dtype, scale)
        if not 1 <= compress_level <= 9:
            raise ValueError(f"Expected compress_level from 1 to 9, found {compress_level}.")
        self.compress_level = compress_level

    def write(self, filename: PathLike, verbose: bool = True, **kwargs: Any) -> None:
        """Writes the file; the same label map gives the same bytes.

        Args:
            filename: ends in `.nii`, `.nii.gz` or `.nrrd`.
            verbose: log the file's name.
            kwargs: part of MONAI's interface; no option is supported.

        Raises:
            TypeError: when an option is given.
            ValueError: when the suffix is another.
        """
        path = checked_output_path(filename, (*NIFTI_SUFFIXES, ".nrrd"), kwargs)
        write_volume = write_nrrd if path.name.endswith(".nrrd") else write_nifti
        write_volume(path, self.labels_array, self.affine, self.compress_level)
        log_written(path, verbose)


class AtomicPngWriter(LabelMapWriter):
    """Writes the label map of a 2D image file as a grey PNG of the same size, rows first, with unchanged values."""

    def write(self, filename: PathLike, verbose: bool = True, **kwargs: Any) -> None:
        """Writes the file.

        Args:
            filename: ends in `.png`.
            verbose: log the file's name.
            kwargs: part of MONAI's interface; no option is supported.

        Raises:
            TypeError: when an option is given.
            ValueError: when the suffix is another, or the label map has several slices.
        """
        path = checked_output_path(filename, (".png",), kwargs)
        if self.labels_array.shape[2] != 1:
            raise ValueError(
                f"Expected a label map of one slice for {path.name}, found {self.labels_array.shape[2]}; "
                "write volumes as .nii.gz."
            )
        with atomic_path(path) as temporary:
            Image.fromarray(np.ascontiguousarray(self.labels_array[:, :, 0])).save(temporary, format="PNG")
        log_written(path, verbose)


def checked_output_path(filename: PathLike, suffixes: tuple[str, ...], options: Mapping[str, Any]) -> Path:
    """Returns the path to write; refuses other suffixes and any option of `ImageWriter.write`."""
    if options:
        raise TypeError(f"Expected no writer options, found {sorted(options)}; remove them.")
    path = Path(filename)
    if not path.name.endswith(suffixes):
        raise ValueError(f"Expected a file name ending in {' or '.join(suffixes)}, found {path.name}; set output_ext.")
    return path


def log_written(path: Path, verbose: bool) -> None:
    """Logs the name of the file that was written; its folder may name the patient."""
    if verbose:
        logger.info("Wrote %s.", path.name)


def _as_labels(array: np.ndarray, dtype: DtypeLike) -> np.ndarray:
    """Returns whole numbers as an unsigned type; refuses values that the type does not hold."""
    if array.size == 0 or (array.dtype.kind == "f" and not np.isfinite(array).all()):
        raise ValueError(f"Expected finite labels, found an empty array, NaN or infinity in shape {array.shape}.")
    lowest, highest = array.min(), array.max()
    if dtype is None:
        dtype = np.uint8 if highest <= np.iinfo(np.uint8).max else np.uint16
    limit = np.iinfo(np.dtype(dtype)).max
    labels = array.astype(dtype, copy=False) if lowest >= 0 and highest <= limit else None
    if labels is None or (array.dtype.kind == "f" and not np.array_equal(labels, array)):
        raise ValueError(
            f"Expected whole labels from 0 to {limit}, found {array.dtype} values from {lowest} to {highest}; "
            "place AsDiscreted(argmax=True) before SaveImaged."
        )
    return labels

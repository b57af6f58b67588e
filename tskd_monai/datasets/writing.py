"""Writers for the files of a sample: copies, grey images, masks and volumes."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from tskd_monai.data.image_file import read_image_file
from tskd_monai.data.nifti import write_nifti
from tskd_monai.datasets.dataset import OutputFile

logger = logging.getLogger(__name__)

LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in grey: ITU-R BT.601."""


def copied(path: Path, target: str) -> OutputFile:
    """Returns an output file that is a byte-for-byte copy of another."""

    def write(output: Path) -> None:
        shutil.copyfile(path, output)

    return OutputFile(target, path, write)


def grey_image(path: Path, target: str) -> OutputFile:
    """Returns an output file with the grey PNG of an 8-bit image; colour becomes luma (BT.601), with a warning."""

    def write(output: Path) -> None:
        pixels = read_image_file(path)[:, :, 0]
        if pixels.ndim == 3 and (pixels == pixels[..., :1]).all():
            pixels = pixels[..., 0]
        elif pixels.ndim == 3:
            logger.warning("%s has colours; it is converted to grey.", path.name)
            pixels = np.round(pixels @ LUMA)
        Image.fromarray(pixels.astype(np.uint8)).save(output, format="PNG")

    return OutputFile(target, path, write)


def mask_image(path: Path, target: str, read: Callable[[], np.ndarray]) -> OutputFile:
    """Returns an output file with the PNG of the label values that `read` returns, uint8 (rows, columns).

    Args:
        path: source of the mask.
        target: path of the PNG, relative to the prepared folder.
        read: reads the mask; called when the file is written.
    """
    return OutputFile(target, path, lambda output: Image.fromarray(read()).save(output, format="PNG"))


def write_volume(path: Path, voxels: np.ndarray, affine: np.ndarray) -> None:
    """Writes a NIfTI volume: integers as integers, anything else as float32.

    Args:
        path: file to write, ending in `.nii.gz`.
        voxels: array with three axes.
        affine: voxel index to RAS mm (4, 4); written as sform and qform.
    """
    whole = np.array_equal(voxels, np.round(voxels)) and np.abs(voxels).max(initial=0) < 2**15
    kind = np.uint8 if voxels.dtype == np.uint8 else np.int16 if whole else np.float32
    write_nifti(path, voxels.astype(kind), affine)

"""Attacks by images: headers with false sizes, and files that unpack to far more than their size."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image, ImageFile

from tests.attacks.attack import Attack, no_op, peak_bytes
from tskd_monai.data import image_file, nifti
from tskd_monai.data.image_file import read_image_file
from tskd_monai.data.nifti import read_nifti
from tskd_monai.data.slices import PreparedImageDataset
from tskd_monai.evaluation.label_maps import load_label_map
from tskd_monai.evaluation.report.display import load_for_display

Monkey = pytest.MonkeyPatch
MEGABYTE = 1 << 20
TRILLION = (10_000, 10_000, 10_000)


def _nifti(name: str, *edits: tuple[int, bytes], behind: bytes = b"") -> Callable[[Path], Path]:
    """Returns a function that writes a NIfTI file of 4 x 4 x 4 bytes with some header fields changed."""

    def plant(folder: Path) -> Path:
        content = bytearray(nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4)).to_bytes())
        for offset, field in edits:
            content[offset : offset + len(field)] = field
        path = folder / name
        content += behind
        path.write_bytes(gzip.compress(bytes(content)) if name.endswith(".gz") else bytes(content))
        return path

    return plant


def _claims(shape: tuple[int, int, int]) -> tuple[int, bytes]:
    return 42, struct.pack("<3h", *shape)


def _png(width: int, height: int) -> Callable[[Path], Path]:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    def plant(folder: Path) -> Path:
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
        path = folder / "lie.png"
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))
        return path

    return plant


def _unweighed(read: Callable[[Path], Any], at_least: int) -> Callable[[Path, Monkey], bool]:
    """Returns whether a reader allocates that much memory, or requests more than there is, without validation."""

    def unguarded(path: Path, monkey: Monkey) -> bool:
        for name in ("check_held", "check_voxel_count"):
            monkey.setattr(nifti, name, no_op)
        monkey.setattr(nifti, "MAX_BESIDE_VOXELS", 1 << 40)
        raised: list[BaseException] = []

        def act() -> None:
            try:
                read(path)
            except MemoryError as error:
                raised.append(error)

        return peak_bytes(act) > at_least or bool(raised)

    return unguarded


def _reads_to_the_end(path: Path, monkey: Monkey) -> bool:
    monkey.setattr(nifti, "MAX_BESIDE_VOXELS", 1 << 40)
    return read_nifti(path)[0].size == 64


def _reaches_load(read: Callable[[Path], Any]) -> Callable[[Path, Monkey], bool]:
    """Returns whether Pillow would allocate memory for pixels without validation; a stand-in stops it there."""

    def unguarded(path: Path, monkey: Monkey) -> bool:
        reached: list[tuple[int, int]] = []

        def load(image: Image.Image) -> None:
            reached.append(image.size)
            raise OSError("stopped")

        monkey.setattr(Image, "MAX_IMAGE_PIXELS", None)
        monkey.setattr(image_file, "check_image_claims", no_op)
        monkey.setattr(ImageFile.ImageFile, "load", load)
        with pytest.raises((ValueError, OSError), match="stopped"):
            read(path)
        return min(reached[0]) >= 13_000

    return unguarded


def _prepared(path: Path) -> Any:
    return PreparedImageDataset([{"image": str(path)}])


HELD, COUNT = "its header states", "Expected at most .* voxels"
BIG = 100 * MEGABYTE
ROWS = [
    Attack(".nii of 10^12 voxels", _nifti("a.nii", _claims(TRILLION)), read_nifti, HELD, _unweighed(read_nifti, BIG)),
    Attack(
        ".nii.gz of 10^12 voxels", _nifti("a.nii.gz", _claims(TRILLION)), read_nifti, HELD, _unweighed(read_nifti, BIG)
    ),
    Attack(
        "label .nii.gz of 10^12 voxels",
        _nifti("a.nii.gz", _claims(TRILLION)),
        load_label_map,
        HELD,
        _unweighed(load_label_map, BIG),
    ),
    Attack(
        "shown .nii.gz of 10^12 voxels",
        _nifti("a.nii.gz", _claims(TRILLION)),
        load_for_display,
        HELD,
        _unweighed(load_for_display, BIG),
    ),
    Attack(
        "NIfTI with voxels at 10^9",
        _nifti(
            "a.nii.gz",
            (108, struct.pack("<f", 1e9)),
            (348, b"\1"),
            (352, struct.pack("<2i", 2**29, 0)),
            behind=bytes(160 * MEGABYTE),
        ),
        read_nifti,
        "found vox_offset 1e\\+09",
        _unweighed(read_nifti, BIG),
    ),
    Attack(
        "NIfTI that does not end",
        _nifti("a.nii.gz", behind=bytes(65 * MEGABYTE)),
        read_nifti,
        "Expected the end of a.nii.gz after its voxels",
        _reads_to_the_end,
    ),
    Attack("PNG of 10^12 pixels", _png(10**6, 10**6), read_image_file, "exceeds limit", _reaches_load(read_image_file)),
    Attack("PNG of 1.7 * 10^8 pixels", _png(13_000, 13_000), read_image_file, HELD, _reaches_load(read_image_file)),
    Attack("PNG of a transfer set", _png(13_000, 13_000), _prepared, HELD, _reaches_load(_prepared)),
    Attack("PNG of a label", _png(13_000, 13_000), load_label_map, HELD, _reaches_load(load_label_map)),
    Attack("PNG to show", _png(13_000, 13_000), load_for_display, HELD, _reaches_load(load_for_display)),
]

"""Rows of the fault matrix: contents of a NIfTI file."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

from tests.inference.fault_rows import EXACT, REFUSED, REPAIRED, Given, Row
from tests.inference.phantom_scan import SHAPE, grid, nifti, scanned
from tskd_monai.datasets.phantom.render import Grid


def _orientations() -> list:
    codes = ["".join(code) for axes in permutations(("RL", "AP", "SI")) for code in product(*axes)]
    return [lambda folder, code=code: nifti(folder, grid(code)) for code in codes]


def _placeless(folder: Path) -> Given:
    given = nifti(folder)
    image = nib.load(given.path)
    bare = nib.Nifti1Image(np.asarray(image.dataobj), None)
    bare.header.set_zooms(image.header.get_zooms())
    nib.save(bare, given.path)
    return given


def _shifted_qform(folder: Path) -> Given:
    given = nifti(folder)
    image = nib.load(given.path)
    moved = image.affine.copy()
    moved[:3, 3] += 5
    image.set_qform(moved, 1)
    image.set_sform(given.affine, 1)
    nib.save(image, given.path)
    return given


def _qform_alone(folder: Path) -> Given:
    given = nifti(folder, grid(rotation=(10.0, -15.0, 20.0)))
    image = nib.load(given.path)
    image.set_sform(None, 0)
    nib.save(image, given.path)
    return given


def _scaled(folder: Path) -> Given:
    given = nifti(folder)
    image = nib.Nifti1Image(scanned(grid()) * 0.25 - 100, given.affine)
    image.header.set_data_dtype(np.int16)
    nib.save(image, given.path)
    return given


def _sheared(folder: Path) -> Given:
    given = nifti(folder)
    affine = given.affine.copy()
    affine[1, 2] += 0.3
    values = scanned(Grid(SHAPE, tuple(map(tuple, affine))))
    nib.save(nib.Nifti1Image(values.astype(np.int16), affine), given.path)
    return Given(given.path, affine, SHAPE)


def _volumes(count: int):
    def make(folder: Path) -> Given:
        return nifti(folder, values=np.repeat(scanned(grid())[..., None], count, axis=-1).astype(np.int16))

    return make


def _not_numbers(folder: Path) -> Given:
    values = scanned(grid()).astype(np.float32)
    values[0, 0, :3] = np.nan, np.inf, -np.inf
    return nifti(folder, values=values)


def _constant(folder: Path) -> Given:
    return nifti(folder, values=np.full(SHAPE, 7, np.int16))


def _cut(count: int):
    def make(folder: Path) -> Given:
        given = nifti(folder)
        given.path.write_bytes(given.path.read_bytes()[:count])
        return given

    return make


def _claiming(name: str):
    def make(folder: Path) -> Given:
        given = nifti(folder, name=name)
        image = nib.load(given.path)
        image.header.set_data_shape((30000, 30000, 30000))
        with (folder / name).open("wb") as file:
            file.write(image.header.binaryblock + bytes(400))
        return given

    return make


def _spaced(factor: float):
    """The in-plane spacing is written in another unit."""

    def make(folder: Path) -> Given:
        given = nifti(folder)
        image = nib.load(given.path)
        affine = image.affine @ np.diag([factor, factor, 1, 1])
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), given.path)
        return given

    return make


def _of_shape(*shape: int):
    return lambda folder: nifti(folder, values=np.full(shape, 7, np.int16))


def _picture(folder: Path) -> Given:
    Image.fromarray(np.zeros((40, 30), np.uint8)).save(folder / "shot.png")
    return Given(folder / "shot.png")


ROWS = [
    Row("NIfTI in all 48 axis orientations, left-handed too", EXACT, _orientations()),
    Row("NIfTI, oblique", EXACT, [lambda folder: nifti(folder, grid(rotation=(10.0, -15.0, 20.0)))]),
    Row("NIfTI, qform alone", EXACT, [_qform_alone]),
    Row("NIfTI, sheared affine", REPAIRED, [_sheared], "its axes are sheared by 8.5 degrees", dice=0.99),
    Row("NIfTI, sform and qform differ", REPAIRED, [_shifted_qform], "sform and qform disagree by 8.66 mm"),
    Row(
        "NIfTI without qform and sform",
        REPAIRED,
        [_placeless],
        "position and left/right are unknown",
        dice=None,
    ),
    Row("NIfTI with scl_slope", EXACT, [_scaled]),
    Row("NIfTI, 4D", REFUSED, [_volumes(2)], "found 2 volumes (shape (24, 22, 20, 2))"),
    Row("NIfTI, 4D with one volume", REPAIRED, [_volumes(1)], "it is read as one 3D volume"),
    Row("NaN and infinite voxels", REPAIRED, [_not_numbers], "3 NaN or infinite voxels are excluded", dice=0.99),
    Row("constant image", REPAIRED, [_constant], "The image is constant; it becomes 0 throughout", dice=None),
    Row(
        "NIfTI, spacing in the plane a thousand times too large", REFUSED, [_spaced(1000)], "pixels of at most 10 times"
    ),
    Row(
        "NIfTI, spacing in the plane a thousand times too small", REFUSED, [_spaced(0.001)], "at least 2 pixels a side"
    ),
    Row(
        "NIfTI of one pixel, or one row of pixels", REFUSED, [_of_shape(1, 1, 1), _of_shape(1, 40, 9)], "pixels a side"
    ),
    Row("2D image file for a model of volumes", REFUSED, [_picture], "which has no spacing and no orientation"),
    Row("truncated .nii.gz", REFUSED, [_cut(-20), _cut(300)], "scan.nii.gz truncated or damaged"),
    Row("zero-byte .nii.gz", REFUSED, [_cut(0)], "found no gzip data"),
    Row("NIfTI header claiming more voxels", REFUSED, [_claiming("scan.nii")], "its header states"),
]

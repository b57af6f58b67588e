"""Parsers of images: NIfTI, NRRD and MetaImage, DICOM series, 2D image files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import CTImageStorage, EnhancedMRImageStorage, ImplicitVRLittleEndian, RLELossless

from tests.data.itk_volumes import write_meta_image, write_nrrd_file, write_volume
from tests.reliability.subject import DOCUMENTED, Case, Subject, require
from tskd_monai.data.dicom.geometry import REFUSE, RESAMPLE
from tskd_monai.data.dicom.reader import read_series
from tskd_monai.data.image_file import read_image_file
from tskd_monai.data.itk_file import ITK_SUFFIXES, data_files, read_itk
from tskd_monai.data.nifti import read_nifti
from tskd_monai.datasets.phantom.dicom import write_dicom_series

SIDE, SLICES = 16, 4
AFFINE = np.array([[-1.5, 0, 0, 30], [0, -1.5, 0, 20], [0, 0, 3.0, -40], [0, 0, 0, 1]])
PLACE = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")


def _voxels(kind: str) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 200, (SIDE, SIDE, SLICES)).astype(kind)


def _write_niftis(folder: Path) -> list[Case]:
    names = []
    for name, kind, image_class in (
        ("short.nii", "<i2", nib.Nifti1Image),
        ("float.nii.gz", "<f4", nib.Nifti1Image),
        ("second.nii.gz", "<u1", nib.Nifti2Image),
        ("double.nii", "<f8", nib.Nifti2Image),
    ):
        image = image_class(_voxels(kind), AFFINE)
        image.header.set_xyzt_units("mm")
        image.set_qform(AFFINE, code="scanner")
        nib.save(image, folder / name)
        names.append(name)
    header = nib.Nifti1Header(endianness=">")
    swapped = nib.Nifti1Image(_voxels(">i2"), AFFINE, header)
    swapped.header.set_slope_inter(2.0, -100.0)
    swapped.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"scanned in a test"))
    nib.save(swapped, folder / "swapped.nii")
    return _one_folder_each(folder, [*names, "swapped.nii"])


def _one_folder_each(folder: Path, names: Sequence[str]) -> list[Case]:
    """Moves each file into its own folder, so that a case is one file."""
    cases = []
    for name in names:
        home = folder / name.partition(".")[0]
        home.mkdir()
        (folder / name).rename(home / name)
        cases.append(Case(home, (name,)))
    return cases


def _read_nifti(folder: Path) -> None:
    (path,) = folder.iterdir()
    voxels, affine = read_nifti(path)
    require(voxels.dtype == np.float32 and voxels.ndim == 3 and voxels.size > 0, f"voxels are {voxels.shape}")
    _require_affine(affine)


def _write_itk_files(folder: Path) -> list[Case]:
    for kind, name in (("<i2", "short.nrrd"), (">f4", "swapped.mha"), ("<u1", "labels.seg.nrrd"), ("<i8", "long.mhd")):
        write_volume(folder / name, _voxels(kind), AFFINE)
    write_volume(folder / "double.nhdr", _voxels("<f8"), AFFINE)
    write_nrrd_file(folder / "raw.nrrd", _voxels("<u2"), AFFINE, {"encoding": "raw"})
    write_meta_image(folder / "plain.mha", _voxels("<i4"), AFFINE, {"CompressedData": "False"})
    cases = []
    for header in sorted(path for path in folder.iterdir() if path.name.endswith(ITK_SUFFIXES)):
        home = folder / header.name.partition(".")[0]
        home.mkdir()
        files = [header, *data_files(header)]
        for path in files:
            path.rename(home / path.name)
        cases.append(Case(home, tuple(path.name for path in files)))
    return cases


def _read_itk_file(folder: Path) -> None:
    (path,) = (path for path in folder.iterdir() if path.name.endswith(ITK_SUFFIXES))
    voxels, affine = read_itk(path)
    require(voxels.dtype == np.float32 and voxels.ndim == 3 and voxels.size > 0, f"voxels are {voxels.shape}")
    _require_affine(affine)


def _require_affine(affine: np.ndarray) -> None:
    require(affine.shape == (4, 4) and bool(np.isfinite(affine).all()), "the affine is not finite")
    require(abs(np.linalg.det(affine[:3, :3])) > 0, "the affine is not invertible")


def _write_series(folder: Path) -> list[Case]:
    variants: dict[str, Callable[[FileDataset, int], None]] = {
        "plain_series": lambda instance, index: None,
        "ct_series": _as_ct,
        "implicit_series": lambda instance, index: setattr(instance.file_meta, "TransferSyntaxUID", IMPLICIT),
        "packed_series": lambda instance, index: instance.compress(RLELossless),
        "tilted_series": _tilt,
    }
    cases = [_write_one_series(folder / name, change) for name, change in variants.items()]
    single = _write_one_series(folder / "single_series", variants["plain_series"])
    for name in single.files[1:]:
        (single.folder / name).unlink()
    return [*cases, Case(single.folder, single.files[:1]), _write_enhanced(folder / "enhanced_series")]


IMPLICIT = ImplicitVRLittleEndian


def _write_one_series(folder: Path, change: Callable[[FileDataset, int], None]) -> Case:
    paths = write_dicom_series(folder, _voxels("u2"), AFFINE, seed=0)
    for index, path in enumerate(paths):
        instance = dcmread(path)
        change(instance, index)
        instance.save_as(path, enforce_file_format=True)
    return Case(folder, tuple(path.name for path in paths))


def _as_ct(instance: FileDataset, index: int) -> None:
    instance.SOPClassUID = instance.file_meta.MediaStorageSOPClassUID = CTImageStorage
    instance.Modality, instance.PixelRepresentation = "CT", 1
    instance.RescaleSlope, instance.RescaleIntercept = 1, -1024


def _tilt(instance: FileDataset, index: int) -> None:
    x, y, z = (float(value) for value in instance.ImagePositionPatient)
    instance.ImagePositionPatient = [x, y + 0.6 * index, z]


def _write_enhanced(folder: Path) -> Case:
    """Writes one enhanced multi-frame image instead of a series."""
    case = _write_one_series(folder, lambda instance, index: None)
    slices = [dcmread(folder / name) for name in case.files]
    whole = slices[0]
    whole.SOPClassUID = whole.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
    whole.NumberOfFrames = len(slices)
    whole.PixelData = b"".join(one.PixelData for one in slices)
    whole.SharedFunctionalGroupsSequence = [_macro("PixelMeasuresSequence", slices[0], "PixelSpacing")]
    whole.PerFrameFunctionalGroupsSequence = [_macro("PlanePositionSequence", one, PLACE[0]) for one in slices]
    for item in whole.PerFrameFunctionalGroupsSequence:
        item.update(_macro("PlaneOrientationSequence", slices[0], PLACE[1]))
    for tag in PLACE:
        delattr(whole, tag)
    for name in case.files[1:]:
        (folder / name).unlink()
    whole.save_as(folder / case.files[0], enforce_file_format=True)
    return Case(folder, case.files[:1])


def _macro(name: str, source: Dataset, tag: str) -> Dataset:
    item, values = Dataset(), Dataset()
    setattr(values, tag, getattr(source, tag))
    setattr(item, name, DicomSequence([values]))
    return item


def _read_series(folder: Path) -> None:
    series = read_series(folder, irregular=RESAMPLE if "tilted" in folder.name else REFUSE)
    voxels = series.voxels
    require(voxels.dtype == np.float32 and voxels.ndim == 3 and voxels.size > 0, f"voxels are {voxels.shape}")
    require(bool(np.isfinite(voxels).all()), "a voxel is not finite")
    require(voxels.shape == tuple(series.grid.shape), "the grid is another")
    _require_affine(series.affine)


def _write_images(folder: Path) -> list[Case]:
    grey = Image.fromarray(_voxels("u1")[:, :, 0])
    wide = Image.fromarray(_voxels("u2")[:, :, 0] * 300)
    colour = Image.fromarray(_voxels("u1")[:, :, :3])
    grey.save(folder / "grey.png")
    colour.save(folder / "colour.jpg")
    colour.quantize(8).save(folder / "palette.png")
    wide.save(folder / "wide.tif")
    wide.save(folder / "packed.tiff", compression="tiff_lzw")
    grey.save(folder / "plain.bmp")
    return _one_folder_each(folder, [path.name for path in sorted(folder.iterdir())])


def _read_image(folder: Path) -> None:
    (path,) = folder.iterdir()
    pixels = read_image_file(path)
    require(pixels.dtype == np.float32 and pixels.size > 0 and pixels.shape[2:] in ((1,), (1, 3)), f"{pixels.shape}")


SUBJECTS = (
    Subject("NIfTI", 14_000, _write_niftis, _read_nifti),
    Subject("NRRD and MetaImage", 14_000, _write_itk_files, _read_itk_file),
    Subject("DICOM series", 6_000, _write_series, _read_series, (*DOCUMENTED, ImportError), folder_is_input=True),
    Subject("2D image", 6_000, _write_images, _read_image),
)

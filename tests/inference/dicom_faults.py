"""Rows of the fault matrix: inputs from a PACS."""

from __future__ import annotations

import shutil
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence
from pydicom.uid import JPEGBaseline8Bit, JPEGLSLossless, RLELossless, generate_uid

from tests.inference.fault_rows import EXACT, REFUSED, REPAIRED, Given, Row
from tests.inference.phantom_scan import SHAPE, Edit, dicom, grid, right_handed, scanned
from tskd_monai.datasets.phantom.render import Grid

TASK_AXES = {"axial": "PLS", "sagittal": "IPR", "coronal": "ILA"}


def orientations(axes: str) -> list:
    def make(code: str):
        return lambda folder: dicom_with(dicom(folder, grid(code)), axcodes=axes)

    return [make(code) for code in right_handed()]


def dicom_with(given: Given, **overrides: object) -> Given:
    return Given(given.path, given.affine, given.shape, overrides)


def edited(edit: Edit, modality: str = "MR", **overrides: object):
    return lambda folder: dicom_with(dicom(folder, edit=edit, modality=modality), **overrides)


def setting(**tags: object):
    def edit(dataset: FileDataset, index: int) -> None:
        for tag, value in tags.items():
            setattr(dataset, tag, value)

    return edit


def _tilt(dataset: FileDataset, index: int) -> None:
    x, y, z = dataset.ImagePositionPatient
    dataset.ImagePositionPatient = [x, y + 2 * index * np.tan(np.radians(15)), z]


def tilted(irregular: str):
    def make(folder: Path) -> Given:
        affine = grid().matrix
        affine[1, 2] -= 2 * np.tan(np.radians(15))
        values = scanned(Grid(SHAPE, tuple(map(tuple, affine))))
        given = dicom(folder, values=values, edit=_tilt)
        return Given(given.path, affine, SHAPE, {"irregular": irregular})

    return make


def without_slices(*left_out: int, **overrides: object):
    def make(folder: Path) -> Given:
        given = dicom(folder)
        for number in left_out:
            (given.path / f"MR{number:04d}.dcm").unlink()
        return dicom_with(given, **overrides)

    return make


def with_extra(edit: Edit, **overrides: object):
    """A series with a changed copy of one of its slices."""

    def make(folder: Path) -> Given:
        given = dicom(folder)
        extra = dcmread(given.path / "MR0008.dcm")
        extra.SOPInstanceUID = extra.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        edit(extra, 0)
        extra.save_as(given.path / "MR9999.dcm")
        return dicom_with(given, **overrides)

    return make


def mixed(chosen: bool):
    def make(folder: Path) -> Given:
        given = dicom(folder)
        other = dicom(folder, grid("PLS", (0.0, 0.0, 40.0)), seed=2, name="other").path
        uid = str(dcmread(given.path / "MR0001.dcm").SeriesInstanceUID)
        for path in other.iterdir():
            shutil.copy(path, given.path / f"other_{path.name}")
        return dicom_with(given, **({"series_uid": uid} if chosen else {}))

    return make


def single_slice(folder: Path) -> Given:
    where = grid()
    given = dicom(folder)
    for path in given.path.iterdir():
        if path.name != "MR0011.dcm":
            path.unlink()
    affine = where.matrix
    affine[:3, 3] += 10 * affine[:3, 2]
    return Given(given.path, affine, (*given.shape[:2], 1))


def enhanced(modality: str):
    def make(folder: Path) -> Given:
        import highdicom as hd

        given = dicom(folder, modality=modality, shuffle=True)
        classic = [dcmread(path) for path in sorted(given.path.iterdir())]
        kinds = {"MR": hd.legacy.LegacyConvertedEnhancedMRImage, "CT": hd.legacy.LegacyConvertedEnhancedCTImage}
        image = kinds[modality](classic, hd.UID(), 7, hd.UID(), 1)
        (folder / "enhanced").mkdir()
        image.save_as(folder / "enhanced" / "image.dcm")
        return Given(folder / "enhanced", given.affine, given.shape)

    return make


def compressed(syntax: str):
    def edit(dataset: FileDataset, index: int) -> None:
        dataset.compress(syntax, generate_instance_uid=False)

    return edited(edit)


def _baseline(dataset: FileDataset, index: int) -> None:
    pixels = (dataset.pixel_array // 4).astype(np.uint8)
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, format="JPEG", quality=95)
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.PixelData = encapsulate([stream.getvalue()])
    dataset["PixelData"].VR = "OB"
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit


def transcoded(syntax: str):
    """A series compressed by GDCM, which supports more codecs than pydicom and accepts small images."""

    def make(folder: Path) -> Given:
        import gdcm

        given = dicom(folder)
        for path in given.path.iterdir():
            reader, writer, change = gdcm.ImageReader(), gdcm.ImageWriter(), gdcm.ImageChangeTransferSyntax()
            reader.SetFileName(str(path))
            assert reader.Read()
            change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
            change.SetInput(reader.GetImage())
            assert change.Change()
            writer.SetFileName(str(path))
            writer.SetFile(reader.GetFile())
            writer.SetImage(change.GetOutput())
            assert writer.Write()
        return given

    return make


def _signed(dataset: FileDataset, index: int) -> None:
    pixels = dataset.pixel_array.astype(np.int16) * 2 - 1000
    dataset.PixelRepresentation, dataset.RescaleSlope, dataset.RescaleIntercept = 1, 1, 0
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OW"


def _truncated(folder: Path) -> Given:
    given = dicom(folder)
    path = given.path / "MR0005.dcm"
    path.write_bytes(path.read_bytes()[:-200])
    return given


def _zero_bytes(folder: Path) -> Given:
    given = dicom(folder)
    (given.path / "MR0005.dcm").write_bytes(b"")
    return given


def _echoes(dataset: FileDataset, index: int) -> None:
    x, y, z = dataset.ImagePositionPatient
    dataset.ImagePositionPatient = [x, y, float(z) - 2 * (index % 2)]
    dataset.TemporalPositionIdentifier = index % 2 + 1


def _interleaved(dataset: FileDataset, index: int) -> None:
    dataset.AcquisitionNumber = index % 2


def _two_blocks(dataset: FileDataset, index: int) -> None:
    dataset.AcquisitionNumber = 1 + (index > 7)


def _two_patients(dataset: FileDataset, index: int) -> None:
    dataset.PatientID = f"P{index > 7}"


def with_companions(folder: Path) -> Given:
    """A series with files that archives and viewers put beside it."""
    given = dicom(folder)
    (given.path / "LICENSE").write_text("Creative Commons Attribution 3.0 Unported License")
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(given.path / "preview.png")
    return given


def without_file_meta(folder: Path) -> Given:
    """A series of bare datasets in implicit VR, without preamble and file meta information."""
    given = dicom(folder)
    for path in given.path.iterdir():
        buffer = DicomBytesIO()
        buffer.is_implicit_VR, buffer.is_little_endian = True, True
        write_dataset(buffer, dcmread(path))
        path.write_bytes(buffer.getvalue())
    return given


def with_private_positions(folder: Path) -> Given:
    """An enhanced image that repeats positions, with other values, in a private sequence of each frame."""
    given = enhanced("MR")(folder)
    image = dcmread(given.path / "image.dcm")
    for group in image.PerFrameFunctionalGroupsSequence:
        other = Dataset()
        other.ImagePositionPatient = [7, 11, 2]
        block = group.private_block(0x2005, "Philips MR Imaging DD 005", create=True)
        block.add_new(0x0F, "SQ", Sequence([other]))
    image.save_as(given.path / "image.dcm")
    return given


LOCALIZER = setting(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
ODD = setting(PatientSex="U", StudyDate="2024-01-31")
BLANK = setting(SOPInstanceUID="", StudyInstanceUID="", SeriesInstanceUID="", FrameOfReferenceUID="")

ROWS = [
    *(Row(f"24 axis orientations, {plane} slices", EXACT, orientations(a)) for plane, a in TASK_AXES.items()),
    Row("oblique", EXACT, [lambda folder: dicom(folder, grid(rotation=(10.0, -15.0, 20.0)))], seg=True),
    Row("gantry tilt", REFUSED, [tilted("refuse")], "sheared by 15.0 degrees, as a gantry tilt does"),
    Row(
        "gantry tilt, `--irregular resample`",
        REPAIRED,
        [tilted("resample")],
        "they are resampled to an orthogonal grid",
        dice=0.9,
        seg=True,
    ),
    Row("missing slice", REFUSED, [without_slices(8)], "missing or uneven at"),
    Row(
        "missing slice, `--irregular resample`",
        REPAIRED,
        [without_slices(8, irregular="resample")],
        "1 missing slice(s) are interpolated between their neighbours",
        dice=0.95,
        seg=True,
    ),
    Row(
        "several slices missing in a row, `--irregular resample`",
        REFUSED,
        [without_slices(8, 9, irregular="resample")],
        "only single missing slices are interpolated",
    ),
    Row("duplicate slice", REFUSED, [with_extra(lambda d, i: None)], "1 duplicate positions among 21 images"),
    Row("4D: two time points", REFUSED, [edited(_echoes)], "they differ in TemporalPositionIdentifier"),
    Row("unordered slices", EXACT, [lambda folder: dicom(folder, shuffle=True)], seg=True),
    Row("all InstanceNumbers equal", EXACT, [edited(setting(InstanceNumber=1))], seg=True),
    Row("mixed series", REFUSED, [mixed(False)], "choose one with --series_uid"),
    Row("mixed series, `--series_uid`", EXACT, [mixed(True)], seg=True),
    Row(
        "localiser among the slices",
        REFUSED,
        [with_extra(setting(ImageOrientationPatient=[0, 1, 0, 0, 0, -1]))],
        "a localizer or a second stack shares the series",
    ),
    Row(
        "localizer by its ImageType among the slices",
        REPAIRED,
        [with_extra(LOCALIZER)],
        "ignored 1 localizer",
        seg=True,
    ),
    Row("localizer alone", REFUSED, [edited(LOCALIZER)], "found only localizers"),
    Row(
        "text and image file beside the slices",
        REPAIRED,
        [with_companions],
        "ignored 1 text file, 1 image file",
        seg=True,
    ),
    Row("two passes whose slices alternate", REFUSED, [edited(_interleaved)], "they differ in AcquisitionNumber"),
    Row("slices of two patients", REFUSED, [edited(_two_patients)], "they differ in PatientID"),
    Row(
        "acquisitions one after the other",
        REPAIRED,
        [edited(_two_blocks)],
        "2 values of AcquisitionNumber follow one another",
    ),
    Row("single slice", REPAIRED, [single_slice], "has one slice; its thickness, 2 mm, is taken from the header"),
    Row("enhanced multi-frame MR", EXACT, [enhanced("MR")], seg=True),
    Row("enhanced multi-frame CT", EXACT, [enhanced("CT")], modality="CT", seg=True),
    Row("enhanced multi-frame MR, other positions in private sequences", EXACT, [with_private_positions]),
    Row("data sets without file meta information", EXACT, [without_file_meta], seg=True),
    Row("RLE", EXACT, [compressed(RLELossless)]),
    Row("JPEG baseline", EXACT, [edited(_baseline)]),
    Row("JPEG lossless", EXACT, [transcoded("JPEGLosslessProcess14_1")]),
    Row("JPEG-LS", EXACT, [compressed(JPEGLSLossless)]),
    Row("JPEG 2000", EXACT, [transcoded("JPEG2000Lossless")]),
    Row("rescale slope other than 1", EXACT, [lambda f: dicom(f, modality="CT")], modality="CT", seg=True),
    Row("signed pixels", EXACT, [edited(_signed, "CT")], modality="CT"),
    Row("unsigned pixels", EXACT, [dicom]),
    Row("12-bit pixels", EXACT, [edited(setting(BitsStored=12, HighBit=11))]),
    Row("MONOCHROME1", REFUSED, [edited(setting(PhotometricInterpretation="MONOCHROME1"))], "found MONOCHROME1"),
    Row("blank UIDs, to NIfTI", EXACT, [edited(BLANK)]),
    Row("blank UIDs, to DICOM SEG", REFUSED, [edited(BLANK)], "blank; write .nii.gz instead", seg=True),
    Row(
        "ill-formed UIDs, to DICOM SEG",
        REFUSED,
        [edited(setting(StudyInstanceUID="1.2.anon.77"))],
        "found StudyInstanceUID ill-formed",
        seg=True,
    ),
    Row("one SOPInstanceUID for all, to NIfTI", EXACT, [edited(setting(SOPInstanceUID="1.2.3.4"))]),
    Row(
        "one SOPInstanceUID for all, to DICOM SEG",
        REFUSED,
        [edited(setting(SOPInstanceUID="1.2.3.4"))],
        "Expected an SOPInstanceUID for each file",
        seg=True,
    ),
    Row(
        "values of patient and study of no valid format, to DICOM SEG",
        REPAIRED,
        [edited(ODD)],
        "PatientSex, StudyDate is no valid value; the DICOM SEG leaves it blank",
        seg=True,
    ),
    Row("empty prediction", EXACT, [dicom], dice=None, seg=True, empty=True),
    Row("CT for an MR model", REFUSED, [lambda f: dicom(f, modality="CT")], "Expected another modality than CT"),
    Row("MR for a CT model", REFUSED, [dicom], "Expected CT for this model, found MR", modality="CT"),
    Row("truncated DICOM file", REFUSED, [_truncated], "Expected readable pixels in MR0005.dcm"),
    Row("zero-byte DICOM file", REFUSED, [_zero_bytes], "Expected a DICOM file, found MR0005.dcm unreadable"),
    Row("DICOM header claiming more pixels", REFUSED, [edited(setting(Rows=4000))], "its header states"),
]

"""Parsers of labels as structures: DICOM SEG, RTSTRUCT and Slicer's segmentations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor

from tests.data.test_slicer_segmentation import AFFINE, SHAPE
from tests.data.test_slicer_segmentation import write as write_segmentation
from tests.reliability.subject import DOCUMENTED, Case, Subject, require
from tskd_monai.data.dicom.label_reader import read_dicom_label
from tskd_monai.data.dicom.reader import read_grid
from tskd_monai.data.dicom.rtstruct_writer import RtStructWriter
from tskd_monai.data.dicom.seg_writer import DicomSegWriter
from tskd_monai.data.slicer_segmentation import slicer_structures
from tskd_monai.data.structures import Structure
from tskd_monai.data.volume_reader import VolumeReader
from tskd_monai.datasets.phantom.dicom import write_dicom_series

LABELS = [(1, "liver"), (2, "spleen")]


def _write_dicom_labels(folder: Path) -> list[Case]:
    series = folder / "series"
    write_dicom_series(series, np.zeros((12, 10, 4), np.uint16), np.diag([-1.5, -1.5, 3.0, 1.0]), seed=0)
    image, meta = VolumeReader().read(series)
    labels = np.zeros((1, *image.shape), np.uint8)
    labels[:, 2:8, 2:7, 1:3], labels[:, 4:6, 4:5, 1], labels[:, 9:, 8:] = 1, 0, 2
    cases = []
    for name, writer in (
        ("binary", DicomSegWriter(labels=LABELS)),
        ("numbers", DicomSegWriter(labels=LABELS, segmentation_type="LABELMAP")),
        ("contours", RtStructWriter(labels=LABELS)),
    ):
        (folder / name).mkdir()
        writer.set_data_array(MetaTensor(torch.from_numpy(labels), meta=meta))
        writer.set_metadata({**meta, "filename_or_obj": str(series)})
        writer.write(folder / name / "label.dcm")
        cases.append(Case(folder / name, ("label.dcm",)))
    return cases


def _read_dicom_label(folder: Path) -> None:
    grid = read_grid(folder.parent / "series")[1]
    _require_masks(read_dicom_label(folder / "label.dcm", grid), grid.shape)


def _require_masks(structures: list[Structure], shape: tuple[int, ...]) -> None:
    for structure in structures:
        mask = structure.mask()
        require(mask.shape == tuple(shape) and mask.dtype == bool, f"the mask is {mask.dtype} {mask.shape}")


def _write_segmentations(folder: Path) -> list[Case]:
    layers = (np.random.default_rng(0).random((2, *SHAPE)) < 0.4).astype(np.uint8)
    cases = []
    for encoding in ("gzip", "raw"):
        (folder / encoding).mkdir()
        write_segmentation(folder / encoding / "a.seg.nrrd", layers, encoding=encoding)
        cases.append(Case(folder / encoding, ("a.seg.nrrd",)))
    return cases


def _read_segmentation(folder: Path) -> None:
    _require_masks(slicer_structures(folder / "a.seg.nrrd", SHAPE, AFFINE), SHAPE)


SUBJECTS = (
    Subject("DICOM label", 3_000, _write_dicom_labels, _read_dicom_label, (*DOCUMENTED, ImportError)),
    Subject("Slicer segmentation", 3_000, _write_segmentations, _read_segmentation),
)

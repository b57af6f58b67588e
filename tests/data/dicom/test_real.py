"""The two real series against other software: ct_jpeg2000 has blank UIDs, and 2 mm steps at a stated 3 mm thickness."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import itk
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from tskd_monai.data.dicom.label_reader import read_dicom_label
from tskd_monai.data.dicom.reader import read_grid, read_series
from tskd_monai.data.dicom.seg_writer import DicomSegWriter
from tskd_monai.data.volume_reader import load_image_transform

STEPS_MM = {"ct_jpeg2000": 2.0, "ct_liver_seg/ct-3slice": 1.0}
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@pytest.fixture(params=STEPS_MM)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_slices_are_as_far_apart_as_their_positions(real_data: Path, name: str) -> None:
    series = read_series(real_data / "dicom" / name)
    assert np.linalg.norm(series.affine[:3, 2]) == pytest.approx(STEPS_MM[name])
    if name == "ct_jpeg2000":
        assert float(series.grid.headers[0].SliceThickness) == 3


def test_itk_reads_the_same(real_data: Path, name: str) -> None:
    series = read_series(real_data / "dicom" / name)
    reader = itk.ImageSeriesReader[itk.Image[itk.F, 3]].New()
    reader.SetImageIO(itk.GDCMImageIO.New())
    reader.SetFileNames([str(header.filename) for header in series.grid.headers])  # by UID it finds nothing: blank
    reader.Update()
    image = reader.GetOutput()
    lps = np.eye(4)
    lps[:3, :3] = itk.array_from_matrix(image.GetDirection()) * np.array(image.GetSpacing())
    lps[:3, 3] = np.array(image.GetOrigin())
    np.testing.assert_array_equal(series.voxels, itk.array_from_image(image).transpose(2, 1, 0))
    np.testing.assert_allclose(series.affine, LPS_TO_RAS @ lps, atol=1e-3)


def test_dcm2niix_reads_the_same(real_data: Path, name: str, tmp_path: Path) -> None:
    if not shutil.which("dcm2niix"):
        pytest.skip("dcm2niix is not installed (Debian's dcm2niix)")
    command = ["dcm2niix", "-z", "n", "-f", "scan", "-o", str(tmp_path), str(real_data / "dicom" / name)]
    subprocess.run(command, check=True, capture_output=True)
    theirs = nib.as_closest_canonical(nib.load(tmp_path / "scan.nii"))
    series = read_series(real_data / "dicom" / name)
    ours = nib.as_closest_canonical(nib.Nifti1Image(series.voxels, series.affine))
    np.testing.assert_array_equal(np.asarray(theirs.dataobj), np.asarray(ours.dataobj))
    np.testing.assert_allclose(theirs.affine, ours.affine, atol=1e-3)


def test_blank_uids_get_no_seg_and_the_reason(real_data: Path, tmp_path: Path) -> None:
    image = load_image_transform("image")({"image": real_data / "dicom" / "ct_jpeg2000"})["image"]
    writer = DicomSegWriter(labels=[(1, "liver")])
    writer.set_data_array(MetaTensor(torch.ones_like(image.as_tensor()), meta=image.meta), channel_dim=None)
    writer.set_metadata(image.meta)
    with pytest.raises(
        ValueError, match=r"Expected UIDs that a DICOM SEG can refer to in .*ct_jpeg2000, found .*blank"
    ):
        writer.write(tmp_path / "liver.dcm")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("file", "segments"), [("liver.dcm", 1), ("partial_overlaps.dcm", 5)])
def test_highdicom_reads_the_same_segments(real_data: Path, file: str, segments: int) -> None:
    hd = pytest.importorskip("highdicom")
    path = real_data / "dicom" / "ct_liver_seg" / file
    _, grid = read_grid(path.parent / "ct-3slice")
    structures = read_dicom_label(path, grid)
    assert len(structures) == segments
    frames = hd.seg.segread(path).get_pixels_by_source_instance(
        [header.SOPInstanceUID for header in grid.headers],
        assert_missing_frames_are_empty=True,
        ignore_spatial_locations=True,  # the writer did not state that they are preserved
    )
    for number, structure in enumerate(structures):
        np.testing.assert_array_equal(structure.mask(), frames[..., number].transpose(2, 1, 0))

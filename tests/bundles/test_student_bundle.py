"""A student bundle from its users' side: the zoo's checks, and input that must be rejected."""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ckpt_export, run, verify_metadata, verify_net_in_out

from tests.support.paths import ROOT
from tskd_monai.bundle.student import write_student_bundle
from tskd_monai.data.task import Intensity, Label, Task
from tskd_monai.datasets.phantom.dicom import write_dicom_series
from tskd_monai.files.folder_lock import LOCK_FILE
from tskd_monai.networks.students import build_student

TEMPLATE = ROOT / "bundles" / "segmentation"
TASK = Task(
    name="two organs",
    labels=(Label(0, "background"), Label(3, "liver"), Label(7, "left kidney")),
    channels=1,
    image_size=(48, 48),
    pixdim=(7.0, 7.0),
    axcodes="PLS",
    intensity=Intensity("percentile", 0.5, 99.5),
)


@pytest.fixture
def student(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    network = build_student("compact_unet_small", TASK.channels, TASK.num_classes, TASK.image_size)
    write_student_bundle(TEMPLATE, tmp_path / "student", TASK, "compact_unet_small", network.state_dict())
    return tmp_path / "student"


def volume() -> tuple[np.ndarray, np.ndarray]:
    voxels = np.random.default_rng(0).integers(0, 1000, (40, 44, 6)).astype(np.int16)
    return voxels, np.diag([-8.0, 8.0, 20.0, 1.0])


def segment(student: Path, image: Path, **overrides: Any) -> Path:
    """Runs the bundle's inference in this process and returns its output folder."""
    output = student.parent / "predictions"
    run(
        config_file=str(student / "configs/inference.json"),
        bundle_root=str(student),
        logging_file=False,
        image=str(image),
        output_dir=str(output),
        device="cpu",
        **overrides,
    )
    return output


def refusal(student: Path, image: Path) -> str:
    """Segments an invalid input, checks that no segmentation is written, and returns the first cause's message."""
    with pytest.raises(RuntimeError) as raised:  # the runner wraps what a config raises
        segment(student, image)
    assert segmentations(student.parent / "predictions") == []
    cause: BaseException = raised.value
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return str(cause)


def segmentations(folder: Path) -> list[Path]:
    """Returns what a run wrote beside its report; a failed run keeps its folder locked while its error is examined."""
    beside = ("summary.json", "volumes.csv", LOCK_FILE)
    return [path for path in folder.glob("*") if path.is_file() and path.name not in beside]


def test_segmentation_is_on_the_scans_grid_in_the_tasks_label_values(student: Path, tmp_path: Path) -> None:
    voxels, affine = volume()
    nib.save(nib.Nifti1Image(voxels, affine), tmp_path / "scan.nii.gz")
    written = segmentations(segment(student, tmp_path / "scan.nii.gz"))
    assert [path.name for path in written] == ["scan_seg.nii.gz"]
    segmentation = nib.load(written[0])
    assert segmentation.shape == voxels.shape
    np.testing.assert_allclose(segmentation.affine, affine, atol=1e-4)
    assert set(np.unique(np.asarray(segmentation.dataobj))) <= {0, 3, 7}


def test_missing_weights_are_named(student: Path, tmp_path: Path) -> None:
    voxels, affine = volume()
    nib.save(nib.Nifti1Image(voxels, affine), tmp_path / "scan.nii.gz")
    (student / "models/model.pt").unlink()
    message = refusal(student, tmp_path / "scan.nii.gz")
    assert "Expected the trained weights at" in message and "--bundle_root" in message


def test_empty_folder_is_refused(student: Path, tmp_path: Path) -> None:
    (tmp_path / "series").mkdir()
    assert "Expected a DICOM image series" in refusal(student, tmp_path / "series")


def test_folder_of_two_series_is_refused_and_one_can_be_chosen(student: Path, tmp_path: Path) -> None:
    voxels, affine = volume()
    for number in (1, 2):
        write_dicom_series(tmp_path / f"part{number}", voxels, affine, seed=1, series_number=number)
        for path in sorted((tmp_path / f"part{number}").iterdir()):
            (tmp_path / "both").mkdir(exist_ok=True)
            path.rename(tmp_path / "both" / f"{number}_{path.name}")
    message = refusal(student, tmp_path / "both")
    assert re.search("Expected one DICOM series in .*, found 2.*--series_uid", message)
    listed = (student.parent / "predictions" / "private" / "studies.csv").read_text()
    uid = re.findall(r"2\.25\.\d+", listed)[0]
    assert uid not in message
    assert len(segmentations(segment(student, tmp_path / "both", series_uid=uid))) == 1


def test_truncated_file_is_refused(student: Path, tmp_path: Path) -> None:
    voxels, affine = volume()
    whole = gzip.compress(nib.Nifti1Image(voxels, affine).to_bytes())
    (tmp_path / "scan.nii.gz").write_bytes(whole[: len(whole) // 2])
    assert "scan.nii.gz" in refusal(student, tmp_path / "scan.nii.gz")


def test_monai_verifies_and_exports_the_bundle(student: Path, tmp_path: Path) -> None:
    schema = Path(__file__).parent / "meta_schema_20240725.json"
    verify_metadata(meta_file=str(student / "configs/metadata.json"), filepath=str(schema))
    common = {"config_file": str(student / "configs/inference.json"), "bundle_root": str(student), "device": "cpu"}
    verify_net_in_out(net_id="network_def", meta_file=str(student / "configs/metadata.json"), **common)
    ckpt_export(
        net_id="network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(student / "models/model.pt"),
        meta_file=str(student / "configs/metadata.json"),
        config_file=str(student / "configs/inference.json"),
        key_in_ckpt="",
        bundle_root=str(student),
    )
    exported = torch.jit.load(str(tmp_path / "model.ts"))
    network = build_student("compact_unet_small", 1, 3, TASK.image_size)
    network.load_state_dict(torch.load(student / "models/model.pt", weights_only=True))
    images = torch.rand(1, 1, 48, 48)
    torch.testing.assert_close(exported(images), network(images))

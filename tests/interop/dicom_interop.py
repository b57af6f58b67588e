"""Writes phantom series, segments them, and compares how other DICOM software reads the result; see the .sh."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import torch
from pydicom import dcmread

from tests.interop.orthanc import ask, orthanc, request
from tests.support.paths import ROOT
from tskd_monai.bundle.run import BundleRun, BundleRunError
from tskd_monai.bundle.student import write_student_bundle
from tskd_monai.data.dicom.reader import read_series
from tskd_monai.data.nifti import read_nifti
from tskd_monai.data.task import Intensity, Label, Task
from tskd_monai.datasets.phantom.anatomy import LABELS
from tskd_monai.datasets.phantom.dicom import write_dicom_series
from tskd_monai.datasets.phantom.render import make_grid, render, sample_anatomy
from tskd_monai.networks.students import build_student

STUDENT = "compact_unet_small"
ROTATIONS = {"axial": (0.0, 0.0, 0.0), "oblique": (8.0, -12.0, 20.0)}


def write_bundle(folder: Path) -> Path:
    """Writes a student of random weights: its segments have arbitrary shapes, unrelated to organs."""
    labels = tuple(Label(value, name) for value, name in LABELS.items())
    task = Task("interop", labels, 1, (48, 48), (6.0, 6.0), "PLS", Intensity("percentile", 0.5, 99.5))
    torch.manual_seed(0)
    network = build_student(STUDENT, task.channels, task.num_classes, task.image_size)
    write_student_bundle(ROOT / "bundles" / "segmentation", folder, task, STUDENT, network.state_dict())
    return folder


def segment(bundle: Path, image: Path, output_dir: Path) -> tuple[Path, Path]:
    """Runs the stock runner on a series; returns the NIfTI label map and the DICOM SEG."""
    options = {"image": image, "output_dir": output_dir, "device": "cpu"}
    try:
        BundleRun(bundle, ["inference.json", "dicom_seg.json"], options).run(output_dir.with_suffix(".log"))
    except BundleRunError as error:
        raise SystemExit(f"FAILED: segmenting {image.name} {error}") from None
    return next(output_dir.glob("*_seg.nii.gz")), next(output_dir.glob("*_seg.dcm"))


def check(name: str, good: bool, detail: str = "") -> None:
    """Prints what was checked; ends the script if it fails."""
    print(f"{'ok' if good else 'FAILED'}: {name}{' (' + detail + ')' if detail else ''}", flush=True)
    if not good:
        raise SystemExit(1)


def placed(array: np.ndarray, affine: np.ndarray, shape: tuple[int, ...], source_affine: np.ndarray) -> np.ndarray:
    """Returns the voxels above 0 of a volume on the source grid; they must be at voxel positions of the grid."""
    voxels = np.argwhere(array > 0)
    to_source = np.linalg.inv(source_affine) @ affine
    indices = voxels @ to_source[:3, :3].T + to_source[:3, 3]
    found = np.zeros(shape, np.uint8)
    check("voxels lie on the source grid", not len(indices) or np.abs(indices - indices.round()).max() < 0.01)
    found[tuple(indices.round().astype(int).T)] = array[tuple(voxels.T)]
    return found


def check_with_highdicom(seg: Path, labels: np.ndarray, affine: np.ndarray) -> None:
    """Compares the SEG, as read by highdicom, with the label map (X, Y, Z) and its affine to RAS mm."""
    volume = hd.seg.segread(seg).get_volume(combine_segments=True)
    ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine
    found = placed(np.asarray(volume.array), ras, labels.shape, affine)
    check(
        "highdicom reads the SEG back voxel for voxel", np.array_equal(found, labels), f"{int((labels > 0).sum())} set"
    )


def check_with_dcmqi(seg: Path, labels: np.ndarray, affine: np.ndarray, folder: Path) -> None:
    """Compares the SEG, as converted by dcmqi, with the label map (X, Y, Z) and its affine to RAS mm."""
    folder.mkdir()
    command = ["segimage2itkimage", "--inputDICOM", str(seg), "--outputDirectory", str(folder)]
    subprocess.run([*command, "--outputType", "nifti", "--prefix", "part"], check=True, capture_output=True)
    found = np.zeros(labels.shape, np.uint8)
    segments = json.loads((folder / "part-meta.json").read_text())["segmentAttributes"]
    for number, (attributes,) in enumerate(segments, start=1):
        voxels, part_affine = read_nifti(folder / f"part-{number}.nii.gz")
        part = placed(voxels, part_affine, labels.shape, affine)
        found[part > 0] = attributes["labelID"]
    check("dcmqi's segimage2itkimage reads the SEG back voxel for voxel", np.array_equal(found, labels))


def check_with_dciodvfy(path: Path) -> None:
    """Checks a file against the standard's information object definitions."""
    done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True)
    errors = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]
    check(f"dciodvfy finds no error in {path.name}", not errors, "; ".join(errors[:3]))


def check_with_dcm2niix(series: Path, folder: Path) -> None:
    """Compares our reading of a series with dcm2niix's."""
    folder.mkdir()
    subprocess.run(
        ["dcm2niix", "-z", "n", "-f", "scan", "-o", str(folder), str(series)], check=True, capture_output=True
    )
    theirs = nib.as_closest_canonical(nib.load(folder / "scan.nii"))
    ours = read_series(series)
    mine = nib.as_closest_canonical(nib.Nifti1Image(ours.voxels, ours.affine))
    same = np.array_equal(np.asarray(theirs.dataobj), np.asarray(mine.dataobj))
    check("dcm2niix reads the same voxels", same)
    check("dcm2niix reads the same positions", np.allclose(theirs.affine, mine.affine, atol=1e-3))


def check_series(name: str, bundle: Path, folder: Path) -> Path:
    """Writes one phantom series, segments it and compares everything with the other software."""
    print(f"-- {name} series")
    grid = make_grid((48, 48, 12), (6.0, 6.0, 14.0), "PLS", rotation_deg=ROTATIONS[name])
    image, _ = render(sample_anatomy(7), grid, 7)
    series = folder / "series"
    paths = write_dicom_series(series, image, grid.matrix, seed=len(name), shuffle=True)
    label_map, seg = segment(bundle, series, folder / "predictions")
    labels, affine = read_nifti(label_map)
    labels = labels.astype(np.uint8)
    check("several classes were found", len(np.unique(labels)) > 2, f"values {np.unique(labels).tolist()}")
    check_with_highdicom(seg, labels, affine)
    check_with_dcmqi(seg, labels, affine, folder / "dcmqi")
    check_with_dciodvfy(seg)
    check_with_dciodvfy(paths[0])
    check_with_dcm2niix(series, folder / "dcm2niix")
    return series


def check_round_trip(series: Path, bundle: Path, folder: Path) -> None:
    """Sends a study to Orthanc, segments what is retrieved from it, and sends the SEG into the same study."""
    print("-- Orthanc")
    with orthanc(folder / "orthanc") as address:
        for path in series.iterdir():
            ask(f"{address}/instances", path.read_bytes())
        (study,) = ask(f"{address}/studies")
        received = folder / "received"
        received.mkdir()
        for number, instance in enumerate(ask(f"{address}/studies/{study}/instances")):
            (received / f"{number}.dcm").write_bytes(request(f"{address}/instances/{instance['ID']}/file"))
        label_map, seg = segment(bundle, received, folder / "predictions")
        stored = ask(f"{address}/instances", seg.read_bytes())
        check("Orthanc takes the SEG", stored["Status"] == "Success")
        check("the SEG joins the study", stored["ParentStudy"] == study and len(ask(f"{address}/studies")) == 1)
        modalities = [ask(f"{address}/series/{s}")["MainDicomTags"]["Modality"] for s in ask(f"{address}/series")]
        check("the study has the images and the SEG", sorted(modalities) == ["MR", "SEG"])
        returned = folder / "returned.dcm"
        returned.write_bytes(request(f"{address}/instances/{stored['ID']}/file"))
        labels, affine = read_nifti(label_map)
        check_with_highdicom(returned, labels.astype(np.uint8), affine)
        sources = {str(dcmread(path).SOPInstanceUID) for path in series.iterdir()}
        referred = {
            str(item.ReferencedSOPInstanceUID)
            for item in dcmread(returned).ReferencedSeriesSequence[0].ReferencedInstanceSequence
        }
        check("the SEG refers to the study's own images", referred == sources)


def main() -> None:
    """Reads the command line and runs every check; the first failure ends the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="for the files of the check; what an earlier one left is removed")
    folder = parser.parse_args().folder
    for name in ("bundle", "pacs", *ROTATIONS):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir(parents=True)
    bundle = write_bundle(folder / "bundle")
    for name in ROTATIONS:
        series = check_series(name, bundle, folder / name)
    check_round_trip(series, bundle, folder / "pacs")
    print("all ok")


if __name__ == "__main__":
    main()

"""Compares our reading and writing of labels in DICOM with plastimatch and dcmqi; see the .sh."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor

from tests.interop.dicom_interop import ROTATIONS, check, check_with_dciodvfy
from tskd_monai.data.dicom.label_reader import read_dicom_label
from tskd_monai.data.dicom.overlay_writer import OverlayWriter
from tskd_monai.data.dicom.reader import read_grid
from tskd_monai.data.dicom.report_writer import ReportWriter
from tskd_monai.data.dicom.result_writer import DicomResultWriter, segment_codings
from tskd_monai.data.dicom.rtstruct_writer import RtStructWriter
from tskd_monai.data.dicom.seg_writer import DicomSegWriter
from tskd_monai.data.grid import aligned
from tskd_monai.data.nifti import read_nifti, write_nifti
from tskd_monai.data.task import Label
from tskd_monai.data.volume_reader import VolumeReader
from tskd_monai.datasets.phantom.anatomy import LABELS
from tskd_monai.datasets.phantom.dicom import write_dicom_series
from tskd_monai.datasets.phantom.render import make_grid, render, sample_anatomy

STRUCTURES = {value: name for value, name in LABELS.items() if value}
FEWEST_DICE = {"SEG": 0.99, "RTSTRUCT": 0.97}


def dice(first: np.ndarray, second: np.ndarray) -> float:
    """Returns the Dice of two masks of which one is not empty."""
    return 2 * np.count_nonzero(first & second) / (np.count_nonzero(first) + np.count_nonzero(second))


def compare(what: str, found: dict[str, np.ndarray], labels: np.ndarray, fewest: float) -> None:
    """Checks the Dice of each structure."""
    values = {name: dice(found[name], labels == value) for value, name in STRUCTURES.items()}
    listed = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
    check(f"{what}: Dice of at least {fewest}", min(values.values()) >= fewest, listed)


def write_ours(writer: DicomResultWriter, series: Path, labels: np.ndarray, path: Path) -> Path:
    """Writes a label map on the grid of the series."""
    meta = VolumeReader().read(series)[1]
    writer.set_data_array(MetaTensor(torch.from_numpy(labels[None]), meta=meta))
    writer.set_metadata({**meta, "filename_or_obj": str(series)})
    writer.write(path)
    return path


def read_ours(path: Path, series: Path) -> dict[str, np.ndarray]:
    """Returns the structures of a SEG or RTSTRUCT by name, without underscores, as our reader finds them."""
    found = read_dicom_label(path, read_grid(series)[1])
    return {one.name.replace("_", " "): one.mask() for one in found}


def run(*command: object) -> None:
    """Runs a program; ends the script with its output if it fails."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"FAILED: {command[0]}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def check_plastimatch(series: Path, labels: np.ndarray, affine: np.ndarray, folder: Path) -> None:
    """RTSTRUCT in both directions."""
    # plastimatch takes an image of bits, one for each structure.
    (folder / "names.txt").write_text("".join(f"{v - 1}|255 0 0|{name}\n" for v, name in STRUCTURES.items()))
    write_nifti(folder / "bits.nii.gz", np.where(labels > 0, 1 << (labels.astype(int) - 1).clip(0), 0).astype(np.uint8),
                affine)  # fmt: skip
    run("plastimatch", "convert", "--input-ss-img", folder / "bits.nii.gz", "--input-ss-list", folder / "names.txt",
        "--referenced-ct", series, "--output-dicom", folder / "theirs")  # fmt: skip
    theirs = next(path for path in (folder / "theirs").iterdir() if path.name.startswith("rtss"))
    compare("we read plastimatch's RTSTRUCT", read_ours(theirs, series), labels, FEWEST_DICE["RTSTRUCT"])
    ours = write_ours(RtStructWriter(labels=list(STRUCTURES.items())), series, labels, folder / "ours.dcm")
    compare("we read our RTSTRUCT", read_ours(ours, series), labels, 1.0)
    check_with_dciodvfy(ours)
    run("plastimatch", "convert", "--input", ours, "--referenced-ct", series, "--output-prefix", folder / "masks",
        "--prefix-format", "nii.gz")  # fmt: skip
    found = {}
    for name in STRUCTURES.values():
        mask, mask_affine = read_nifti(folder / "masks" / f"{name}.nii.gz")
        found[name] = aligned(mask, mask_affine, labels.shape, affine)[0] > 0
    compare("plastimatch reads our RTSTRUCT", found, labels, FEWEST_DICE["RTSTRUCT"])


def check_dcmqi(series: Path, label_file: Path, labels: np.ndarray, folder: Path) -> None:
    """A SEG of another writer; `dicom_interop` has the other direction."""
    segments = []
    for value, name in STRUCTURES.items():
        codings = segment_codings(Label(value, name))
        keys = {"category": "SegmentedPropertyCategoryCodeSequence", "type": "SegmentedPropertyTypeCodeSequence"}
        codes = {
            key: dict(zip(("CodeValue", "CodingSchemeDesignator", "CodeMeaning"), codings[kind], strict=True))
            for kind, key in keys.items()
        }
        segments.append({"labelID": value, "SegmentLabel": name, "SegmentDescription": name, "SegmentAlgorithmType":
                         "MANUAL", **codes})  # fmt: skip
    (folder / "meta.json").write_text(json.dumps({"segmentAttributes": [segments], "ContentCreatorName": "check"}))
    run("itkimage2segimage", "--inputImageList", label_file, "--inputDICOMDirectory", series, "--inputMetadata",
        folder / "meta.json", "--outputDICOM", folder / "dcmqi.dcm")  # fmt: skip
    compare("we read dcmqi's SEG", read_ours(folder / "dcmqi.dcm", series), labels, FEWEST_DICE["SEG"])
    ours = write_ours(DicomSegWriter(labels=list(STRUCTURES.items())), series, labels, folder / "our_seg.dcm")
    compare("we read our SEG", read_ours(ours, series), labels, 1.0)


def check_other_results(series: Path, labels: np.ndarray, folder: Path) -> None:
    """The secondary capture and the report, by the standard's definitions."""
    for name, writer in (("overlay", OverlayWriter), ("report", ReportWriter)):
        check_with_dciodvfy(write_ours(writer(labels=list(STRUCTURES.items())), series, labels, folder / f"{name}.dcm"))


def main() -> None:
    """Reads the command line and runs every check; the first failure ends the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="for the files of the check; what an earlier one left is removed")
    for name, rotation in ROTATIONS.items():
        folder = parser.parse_args().folder / f"labels_{name}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        print(f"-- {name} series")
        grid = make_grid((96, 96, 12), (3.0, 3.0, 14.0), "PLS", rotation_deg=rotation)
        image, label = render(sample_anatomy(7), grid, 7)
        series = folder / "series"
        write_dicom_series(series, image, grid.matrix, seed=len(name), shuffle=True)
        own = read_grid(series)[1]
        labels, _ = aligned(label.astype(np.uint8), grid.matrix, own.shape, own.affine)
        write_nifti(folder / "label.nii.gz", labels, own.affine)
        assert nib.load(folder / "label.nii.gz").shape == own.shape
        check_plastimatch(series, labels, own.affine, folder)
        check_dcmqi(series, folder / "label.nii.gz", labels, folder)
        check_other_results(series, labels, folder)
    print("all ok")


if __name__ == "__main__":
    main()

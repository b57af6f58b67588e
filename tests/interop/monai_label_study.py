"""Inputs of the MONAI Label check: phantom scans of several geometries, and a student trained on others."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from tests.support.paths import ROOT
from tskd_monai.bundle.run import BundleRun
from tskd_monai.bundle.student import write_student_bundle
from tskd_monai.commands.task_files import plan_dataset
from tskd_monai.datasets.phantom.dicom import write_dicom_series
from tskd_monai.datasets.phantom.render import make_grid, render, sample_anatomy
from tskd_monai.datasets.phantom.study import write_study
from tskd_monai.evaluation.metrics import evaluate_case
from tskd_monai.files.json_files import read_json
from tskd_monai.files.private_files import private_file
from tskd_monai.inference.case_records import INPUTS
from tskd_monai.networks.students import build_student

STUDENT = "compact_unet_small"
SHAPE, SPACING = (64, 64, 16), (5.4, 5.4, 10.8)
IMAGE_SIZE = 64
SECTIONS = {"training": 6, "validation": 2}
# Little training, so that MONAI Label's has something to add.
TRAINING = {"max_epochs": 10, "epoch_length": 50, "learning_rate": 0.003, "val_interval": 5}
SCANS = {
    "scan_1": ("LAS", (0.0, 0.0, 0.0)),
    "scan_2": ("PIR", (0.0, 0.0, 0.0)),
    "scan_3": ("RAS", (8.0, -12.0, 20.0)),
    "scan_4": ("LPS", (0.0, 5.0, 0.0)),
}
"""Name of each scan to segment -> directions of its array axes, and its rotation in degrees."""
SEED = 50_000  # of the first scan's patient, distinct from those of training
SERIES_SEEDS = (51_000, 51_001, 51_002)


@dataclass(frozen=True)
class Scan:
    """A phantom scan on disk.

    Attributes:
        image: a NIfTI file, or the folder of a DICOM series.
        label: NIfTI file of its true labels, on the image's grid.
    """

    image: Path
    label: Path


def write_scans(folder: Path) -> list[Scan]:
    """Returns the scans to segment: MONAI Label serves `images/`; `truth/` holds the labels an annotator would save."""
    scans = []
    for index, (name, (axcodes, rotation)) in enumerate(SCANS.items()):
        scan = Scan(folder / "images" / f"{name}.nii.gz", folder / "truth" / f"{name}.nii.gz")
        grid = make_grid(SHAPE, SPACING, axcodes, rotation_deg=rotation)
        for path, volume in zip(
            (scan.image, scan.label), render(sample_anatomy(SEED + index), grid, index), strict=True
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(volume, grid.matrix), path)
        scans.append(scan)
    return scans


def write_series(folder: Path) -> list[Scan]:
    """Returns the DICOM series to segment, each a separate study and patient."""
    series = []
    for seed in SERIES_SEEDS:
        grid = make_grid(SHAPE, SPACING, "PLS")
        image, label = render(sample_anatomy(seed), grid, seed)
        scan = Scan(folder / f"series_{seed}", folder / f"truth_{seed}.nii.gz")
        write_dicom_series(scan.image, image, grid.matrix, seed=seed, shuffle=True, patient_id=f"PHANTOM-{seed}")
        nib.save(nib.Nifti1Image(label, grid.matrix), scan.label)
        series.append(scan)
    return series


def train_student(folder: Path) -> Path:
    """Returns a student bundle, trained briefly on a phantom dataset by the bundle's own `train.json`."""
    study = write_study(folder / "study", seed=1, sections=SECTIONS, shape=SHAPE, spacing=SPACING)
    with (folder / "plan.log").open("w") as log, redirect_stderr(log):  # keeps the output at one line per step
        datalist, _, task = plan_dataset(study, folder / "plan", image_size=IMAGE_SIZE)
    torch.manual_seed(0)
    network = build_student(STUDENT, task.channels, task.num_classes, task.image_size)
    bundle = folder / "student"
    write_student_bundle(ROOT / "bundles" / "segmentation", bundle, task, STUDENT, network.state_dict())
    run = BundleRun(bundle, ["train.json"], {"datalist": datalist, "device": "cpu", **TRAINING})
    run.run(folder / "training.log", environment={"PYTHONPATH": str(ROOT)})
    return bundle


def segment(bundle: Path, scans: Sequence[Scan], output_dir: Path) -> list[Path]:
    """Returns the label map that the stock bundle runner predicts for each scan, in this environment."""
    images = [str(scan.image) for scan in scans]
    options = {"image": images, "output_dir": output_dir, "engine": "torch", "device": "cpu"}
    run = BundleRun(bundle, ["inference.json"], options)
    run.run(output_dir.with_suffix(".log"), environment={"PYTHONPATH": str(ROOT)})
    studies = read_json(output_dir / "summary.json")["studies"]
    outputs = {study["study"]: output_dir / study["outputs"][0] for study in studies}
    with private_file(output_dir, INPUTS).open(newline="") as file:
        named = {row["input"]: row["study"] for row in csv.DictReader(file)}
    return [outputs[named[image]] for image in images]


def mean_dice(found: Path, truth: Path, labels: Mapping[int, str]) -> float:
    """Returns the mean Dice of a label map over the foreground classes."""
    return float(np.nanmean([row["dice"] for row in evaluate_case(found, truth, labels, truth.stem)]))

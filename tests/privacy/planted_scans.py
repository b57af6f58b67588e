"""Scans of a patient whose headers and folders name her, and a model to segment them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
from pydicom import config, dcmread
from pydicom.dataset import FileDataset

from tests.privacy.identifiers import SERIES_FOLDER, plant
from tests.support.paths import ROOT
from tskd_monai.bundle.student import write_student_bundle
from tskd_monai.data.task import Intensity, Label, Task
from tskd_monai.datasets.phantom.anatomy import LABELS
from tskd_monai.datasets.phantom.dicom import write_dicom_series
from tskd_monai.datasets.phantom.render import make_grid, render, sample_anatomy
from tskd_monai.networks.students import build_student

GRID = make_grid((48, 48, 6), (7.2, 7.2, 25.0), "PLS")


def scan(folder: Path, seed: int) -> Path:
    """Writes a patient's series with planted identifiers and its label beside it, and returns the series' folder."""
    image, label = render(sample_anatomy(seed), GRID, seed)
    series = folder / SERIES_FOLDER
    write_dicom_series(series, image.astype(np.uint16), GRID.matrix, seed=seed)
    plant(series)
    nib.save(nib.Nifti1Image(label, GRID.matrix), folder / "label.nii.gz")
    return series


def series_with(folder: Path, seed: int, edit: Callable[[FileDataset], None] = lambda dataset: None) -> Path:
    """Writes a patient's series without a label, each file changed by `edit`, and returns its folder."""
    series = scan(folder, seed)
    (folder / "label.nii.gz").unlink()
    for path in series.iterdir():
        with config.disable_value_validation():
            dataset = dcmread(path)
            edit(dataset)
            dataset.save_as(path)
    return series


def untrained_student(folder: Path) -> Path:
    """Writes the bundle of an untrained student for the scans and returns its folder."""
    labels = tuple(Label(value, name) for value, name in LABELS.items())
    task = Task("two", labels, 1, (48, 48), (7.2, 7.2), "PLS", Intensity("percentile", 0.5, 99.5))
    network = build_student("compact_unet_small", 1, task.num_classes, task.image_size)
    write_student_bundle(ROOT / "bundles" / "segmentation", folder, task, "compact_unet_small", network.state_dict())
    return folder

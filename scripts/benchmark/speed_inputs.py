"""Scans and student bundles of the sizes in the inference benchmark; created once and kept in a folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from tskd_monai.bundle.student import write_student_bundle
from tskd_monai.data.task import Intensity, Label, Task
from tskd_monai.datasets.phantom.anatomy import NUM_TISSUES, Tissue, tissue_at
from tskd_monai.datasets.phantom.render import make_grid, render, sample_anatomy
from tskd_monai.files.atomic import atomic_path
from tskd_monai.networks.students import build_student

TEMPLATE = Path(__file__).parent.parent.parent / "bundles" / "segmentation"
SCANS = {
    "ct": ((512, 512, 280), (0.75, 0.75, 1.5)),
    "mr": ((320, 320, 35), (1.2, 1.2, 6.0)),
}
"""Name -> voxels along the axes, and their spacing in mm."""

AIR_HU = -1000

STEPS = 60
SLICES = 12


def write_scan(name: str, folder: Path) -> Path:
    """Returns the path of a phantom scan, int16 with a scanner's noise; writes it unless it exists."""
    path = folder / f"{name}.nii.gz"
    if not path.is_file():
        shape, spacing = SCANS[name]
        voxels = np.stack(list(_slices(shape, spacing)), axis=-1)
        affine = make_grid(shape, spacing, "LPS").matrix
        with atomic_path(path) as temporary:
            nib.save(nib.Nifti1Image(voxels + np.int16(AIR_HU if name == "ct" else 0), affine), temporary)
    return path


def _slices(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> Iterator[np.ndarray]:
    """Yields the slices (H, W) one by one: the sampling points of a whole CT would not fit into memory."""
    anatomy = sample_anatomy(7)
    for index in range(shape[2]):
        height = (index - (shape[2] - 1) / 2) * spacing[2]
        image, _ = render(anatomy, make_grid((*shape[:2], 1), spacing, "LPS", (0.0, 0.0, height)), seed=7)
        yield image[..., 0]


def write_bundle(student: str, classes: int, image_size: int, scan: str, folder: Path) -> Path:
    """Returns the folder of a student bundle, briefly trained, so that its classes have areas and borders as organs do.

    Args:
        student: name for `build_student`.
        classes: number of classes, including background.
        image_size: pixels of the network along a side.
        scan: name in SCANS, whose field of view the network sees.
        folder: folder of the bundle.
    """
    bundle = folder / f"{student}-{scan}-{classes}-{image_size}"
    if (bundle / "models" / "model.pt").is_file():
        return bundle
    shape, spacing = SCANS[scan]
    task = Task(
        name="speed",
        labels=tuple(Label(value, "background" if value == 0 else f"organ {value}") for value in range(classes)),
        channels=1,
        image_size=(image_size, image_size),
        pixdim=(spacing[0] * shape[0] / image_size, spacing[1] * shape[1] / image_size),
        axcodes="PLS",
        intensity=Intensity("hu_window", -160, 240) if scan == "ct" else Intensity("percentile", 0.5, 99.5),
    )
    torch.manual_seed(0)
    network = build_student(student, task.channels, task.num_classes, task.image_size)
    _train_briefly(network, classes, image_size, shape[0] * spacing[0])
    write_student_bundle(TEMPLATE, bundle, task, student, network.state_dict())
    return bundle


def _train_briefly(network: torch.nn.Module, classes: int, image_size: int, extent_mm: float) -> None:
    """Trains on a few coarse slices of another patient, with the tissues behind the chest wall as classes."""
    anatomy = sample_anatomy(8)
    table = np.zeros(NUM_TISSUES, np.int64)
    table[Tissue.CAVITY :] = np.arange(NUM_TISSUES - Tissue.CAVITY) % (classes - 1) + 1
    step = extent_mm / image_size
    images, labels = [], []
    for height in np.linspace(-60, 90, SLICES):
        grid = make_grid((image_size, image_size, 1), (step, step, 1.5), "PLS", (0.0, 0.0, float(height)))
        image, _ = render(anatomy, grid, seed=8)
        images.append((image[..., 0] / image.max()).astype(np.float32))
        labels.append(table[tissue_at(anatomy, grid.centers())].reshape(grid.shape)[..., 0])
    shown, wanted = torch.from_numpy(np.stack(images))[:, None], torch.from_numpy(np.stack(labels))
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3)
    for number in range(STEPS):
        batch = [(number + offset) % SLICES for offset in range(4)]
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(shown[batch]), wanted[batch]).backward()
        optimizer.step()

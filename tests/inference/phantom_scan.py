"""Two solids in world coordinates, scanned on any grid, and the network that finds them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from pydicom import dcmread
from pydicom.dataset import FileDataset
from pydicom.uid import CTImageStorage

from tests.inference.fault_rows import Given
from tskd_monai.datasets.phantom.dicom import write_dicom_series
from tskd_monai.datasets.phantom.render import Grid, make_grid
from tskd_monai.datasets.phantom.shapes import Ellipsoid

SOLIDS = {
    1: Ellipsoid((7.0, 3.0, -4.0), (9.0, 6.0, 7.0), (0.0, 0.0, 30.0)),
    4: Ellipsoid((-9.0, 7.0, 6.0), (5.0, 6.0, 8.0)),
}
LEVELS = {0: 500, 1: 0, 4: 1000}
"""Stored value of each label: an edge of either solid passes through no value of the other."""

SHAPE, SPACING = (24, 22, 20), (2.0, 2.0, 2.0)
HU_OFFSET = 1000
Edit = Callable[[FileDataset, int], None]


class Oracle(torch.nn.Module):
    """Finds the label whose level is nearest to the image in [0, 1]; with `empty` always background."""

    def __init__(self, empty: bool = False) -> None:
        super().__init__()
        self.register_buffer("levels", torch.tensor([level / 1000 for level in LEVELS.values()]))
        self.empty = empty

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Returns logits (B, 3, H, W)."""
        logits = -torch.cat([(image - level).abs() for level in self.levels], dim=1)
        if self.empty:
            logits[:, 0] = 1
        return logits


def label_at(points: np.ndarray) -> np.ndarray:
    """Returns the label (N,) of RAS points (N, 3) in mm."""
    labels = np.zeros(len(points), np.uint8)
    for value, solid in SOLIDS.items():
        labels[solid.distance(points) <= 0] = value
    return labels


def grid(axcodes: str = "PLS", rotation: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Grid:
    """Returns the grid of a scan."""
    return make_grid(SHAPE, SPACING, axcodes, rotation_deg=rotation)


def anisotropic_grid(axcodes: str) -> Grid:
    """Returns a grid of thick slices whose pixels are not the task's."""
    return make_grid((36, 34, 12), (1.3, 1.3, 4.0), axcodes)


def scanned(where: Grid) -> np.ndarray:
    """Returns the stored values of a scan, uint16 of the grid's shape."""
    levels = np.zeros(256, np.uint16)
    for value, level in LEVELS.items():
        levels[value] = level
    return levels[label_at(where.centers())].reshape(where.shape)


def right_handed() -> list[str]:
    """Returns the 24 axis orientations without a mirror image, such as PLS in LPS order."""
    codes = ["".join(code) for axes in permutations(("RL", "AP", "SI")) for code in product(*axes)]
    return [code for code in codes if np.linalg.det(make_grid((2, 2, 2), (1, 1, 1), code).matrix[:3, :3]) > 0]


def dicom(
    folder: Path,
    where: Grid | None = None,
    *,
    values: np.ndarray | None = None,
    edit: Edit | None = None,
    modality: str = "MR",
    shuffle: bool = False,
    seed: int = 1,
    name: str = "series",
) -> Given:
    """Writes a scan, or other values on its grid, as a classic series.

    `edit` changes each dataset, by its index along the slices, before it is saved. As CT the HU range from -1000 to
    1000.
    """
    where = where or grid()
    paths = write_dicom_series(
        folder / name, scanned(where) if values is None else values, where.matrix, seed=seed, shuffle=shuffle
    )
    if edit or modality == "CT":
        for index, path in enumerate(paths):
            dataset = dcmread(path)
            if modality == "CT":
                _as_ct(dataset)
            if edit:
                edit(dataset, index)
            dataset.save_as(path)
    return Given(folder / name, where.matrix, where.shape)


def _as_ct(dataset: FileDataset) -> None:
    dataset.Modality = "CT"
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = 2, -HU_OFFSET, "HU"


def nifti(
    folder: Path, where: Grid | None = None, *, name: str = "scan.nii.gz", values: np.ndarray | None = None
) -> Given:
    """Writes a scan, or other values on its grid, as NIfTI."""
    where = where or grid()
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(scanned(where).astype(np.int16) if values is None else values, where.matrix)
    image.set_sform(where.matrix, 1)
    image.set_qform(where.matrix, 1)
    nib.save(image, path)
    return Given(path, where.matrix, where.shape)


def dice(found: np.ndarray, affine: np.ndarray, given: Given) -> list[float]:
    """Returns the Dice of each class with the analytic mask at the voxel positions, where the input was scanned."""
    indices = np.stack(np.meshgrid(*map(np.arange, found.shape), indexing="ij"), -1).reshape(-1, 3)
    points = indices @ affine[:3, :3].T + affine[:3, 3]
    inverse = np.linalg.inv(given.affine)
    scanned_at = points @ inverse[:3, :3].T + inverse[:3, 3]
    covered = ((scanned_at > -0.01) & (scanned_at < np.array(given.shape) - 0.99)).all(axis=1)
    expected, labels = label_at(points[covered]), found.reshape(-1)[covered]
    return [
        2
        * float(((expected == value) & (labels == value)).sum())
        / float((expected == value).sum() + (labels == value).sum())
        for value in SOLIDS
    ]

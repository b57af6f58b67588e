"""Images that a student must not be given: each is written as a file, as a user would give it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import nibabel as nib
import numpy as np

from tskd_monai.data.volume_reader import load_image_transform

Change = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Volume (X, Y, Z) and affine (4, 4) to those of the wrong input."""


CT_SERIES = ("dicom/ct_jpeg2000", "dicom/ct_liver_seg/ct-3slice")


def first_half(volume: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keeps the first half of the slices."""
    return volume[..., : volume.shape[2] // 2], affine


def last_half(volume: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keeps the last half of the slices."""
    start = volume.shape[2] // 2
    return volume[..., start:], affine @ _moved(2, start)


def every_second_slice(volume: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Drops every second slice; the header states the new distance."""
    return volume[..., ::2], affine @ np.diag([1.0, 1.0, 2.0, 1.0])


def every_second_slice_unstated(volume: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Drops every second slice; the header still states the old distance."""
    return volume[..., ::2], affine


def left_right_header(volume: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keeps the values and states the first axis reversed: the patient seems mirrored."""
    return volume, affine @ _moved(0, volume.shape[0] - 1) @ np.diag([-1.0, 1.0, 1.0, 1.0])


def head_feet_header(volume: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keeps the values and states the slices in reverse order."""
    return volume, affine @ _moved(2, volume.shape[2] - 1) @ np.diag([1.0, 1.0, -1.0, 1.0])


def motion(volume: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Moves the patient twice while k-space is acquired: by 12 pixels before a third of the lines, by -8 after two."""
    spectrum = np.fft.fftshift(np.fft.fft2(volume, axes=(0, 1)), axes=(0, 1))
    frequency = np.fft.fftshift(np.fft.fftfreq(volume.shape[1]))
    lines = np.arange(volume.shape[1])
    shift = np.select([lines < 0.45 * len(lines), lines > 0.55 * len(lines)], [12.0, -8.0], 0.0)
    spectrum *= np.exp(-2j * np.pi * frequency * shift)[None, :, None]
    return np.abs(np.fft.ifft2(np.fft.ifftshift(spectrum, axes=(0, 1)), axes=(0, 1))), affine


def noise(volume: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Adds Rician noise, as magnitude images have it, of a quarter of the 99th percentile."""
    generator, deviation = np.random.default_rng(0), np.percentile(volume, 99) / 4
    real, imaginary = (generator.normal(0, deviation, volume.shape) for _ in range(2))
    return np.hypot(volume + real, imaginary), affine


CHANGES: Mapping[str, Change] = {
    "first half of the slices": first_half,
    "last half of the slices": last_half,
    "every second slice": every_second_slice,
    "every second slice, unstated": every_second_slice_unstated,
    "left-right header": left_right_header,
    "head-feet header": head_feet_header,
    "motion": motion,
    "noise": noise,
}


def write_changed(image: str | Path, name: str, folder: Path) -> Path:
    """Writes a changed copy of a NIfTI file; returns its path.

    Args:
        image: the file.
        name: key of `CHANGES`.
        folder: existing folder of the copy.
    """
    loaded = nib.load(image)
    volume, affine = CHANGES[name](np.asarray(loaded.get_fdata(dtype=np.float32)), np.asarray(loaded.affine))
    path = folder / Path(image).name
    nib.save(nib.Nifti1Image(volume.astype(np.float32), affine), path)
    return path


def write_nifti_of(series: Path, folder: Path) -> Path:
    """Writes a DICOM series as NIfTI, which states no modality; returns the path of the file."""
    image = load_image_transform(["image"])({"image": str(series)})["image"]
    path = folder / f"{series.name}.nii.gz"
    nib.save(nib.Nifti1Image(np.asarray(image.as_tensor(), dtype=np.float32), np.asarray(image.affine)), path)
    return path


def other_images(dataset: str, data: Path, number: int) -> list[tuple[str, Path]]:
    """Returns images of other datasets with their kinds.

    Args:
        dataset: dataset of the student.
        data: folder of all datasets.
        number: most images of each kind.
    """
    kinds = {
        "CT": ("dicom", [data / name for name in CT_SERIES]),
        "abdominal MR": ("chaos_t2spir", sorted((data / "chaos_t2spir").glob("image_*.nii.gz"))),
        "brain MR": ("msd_hippocampus", sorted((data / "msd_hippocampus").rglob("*hippocampus_*.nii.gz"))),
        "RGB photo": ("ph2", [path for path in sorted((data / "ph2").glob("*.png")) if "lesion" not in path.name]),
        "ultrasound": ("hc18", [path for path in sorted((data / "hc18").glob("*.png")) if "mask" not in path.name]),
        "fundus photo": ("chase_db1", sorted((data / "chase_db1").glob("*.jpg"))),
    }
    return [(kind, path) for kind, (source, paths) in kinds.items() if source != dataset for path in paths[:number]]


def _moved(axis: int, voxels: int) -> np.ndarray:
    matrix = np.eye(4)
    matrix[axis, 3] = voxels
    return matrix

"""CHAOS: abdominal MR (T2-SPIR, T1-DUAL in and out of phase) and CT, as DICOM with PNG labels.

Layout of `CHAOS_Train_Sets.zip` and `CHAOS_Test_Sets.zip` (Zenodo 3431873), where `N` is the patient:

    Train_Sets/MR/N/T2SPIR/{DICOM_anon/IMG-0004-00001.dcm, Ground/IMG-0004-00001.png}
    Train_Sets/MR/N/T1DUAL/{DICOM_anon/{InPhase,OutPhase}/*.dcm, Ground/*.png}
    Train_Sets/CT/N/{DICOM_anon/*.dcm, Ground/liver_GT_000.png}
    Test_Sets/…: the same without Ground

An MR label has the name of its image (T1-DUAL: of the in-phase image). A CT label is paired by its rank among the
numbers in the file names, not by position: images are named `i0000,0000b.dcm` or `IMG-0002-00001.dcm`.

Source: the challenge's data page for the codes (liver 55 to 70, right kidney 110 to 135, left kidney 175 to 200,
spleen 240 to 255); the CT case in its evaluation repository (github.com/emrekavur/CHAOS-evaluation) for names, ranks
and geometry.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tskd_monai.data.dicom.geometry import SeriesGrid
from tskd_monai.data.dicom.reader import read_grid, read_series
from tskd_monai.data.grid import corner_distance, same_grid
from tskd_monai.datasets.dataset import Description, OutputFile, PublicDataset, Sample
from tskd_monai.datasets.layout import files_in, first_folder, natural_key, require_folder
from tskd_monai.datasets.masks import decode, read_binary, read_values
from tskd_monai.datasets.writing import write_volume

LAYOUT = "Train_Sets/MR/1/T2SPIR/DICOM_anon/*.dcm with Ground/*.png, and Train_Sets/CT/1/DICOM_anon with Ground"
MR_CODES = {1: (55, 70), 2: (110, 135), 3: (175, 200), 4: (240, 255)}
MR_LABELS = {0: "background", 1: "liver", 2: "right kidney", 3: "left kidney", 4: "spleen"}
MR_SERIES = {
    "t2spir": ("T2SPIR", "DICOM_anon"),
    "t1_in": ("T1DUAL", "DICOM_anon/InPhase"),
    "t1_out": ("T1DUAL", "DICOM_anon/OutPhase"),
}
"""Folders of the sequence, and of its series."""

LIVER_HU = (0.0, 250.0)
LIVER_FRACTION = 0.9
"""Minimum fraction of liver voxels in this range in the portal phase: 0.99 in the case examined, 0.81 with its labels
in reverse order."""


def find_mr(source: Path, sequence: str) -> PublicDataset:
    """Returns the dataset of one MR sequence.

    Args:
        source: folder with `Train_Sets` and optionally `Test_Sets`, whose images become unlabelled.
        sequence: `t2spir`, `t1_in` or `t1_out`.

    Raises:
        FileNotFoundError: if the layout differs.
        ValueError: if the images and labels of a patient do not match.
    """
    kind, series = MR_SERIES[sequence]
    samples = []
    for patient in _patients(source, "Train_Sets", "MR"):
        labels = files_in(patient / kind / "Ground", r".*\.png", "CHAOS", LAYOUT)
        owner = patient / kind / ("DICOM_anon/InPhase" if kind == "T1DUAL" else series)
        require_folder(owner, "CHAOS", LAYOUT)
        samples.append(_sample(patient, patient / kind / series, _mr_label(patient.name, owner, labels, series)))
    samples += [_sample(p, p / kind / series, None) for p in _patients(source, "Test_Sets", "MR")]
    return PublicDataset(
        _description(f"chaos_{sequence}", f"MR {kind} ({series.rpartition('/')[2]})", "MR"), tuple(samples)
    )


def find_ct(source: Path) -> PublicDataset:
    """Returns the dataset of liver CT.

    Args:
        source: folder with `Train_Sets` and optionally `Test_Sets`, whose images become unlabelled.

    Raises:
        FileNotFoundError: if the layout differs.
    """
    samples = []
    for patient in _patients(source, "Train_Sets", "CT"):
        labels = files_in(patient / "Ground", r".*\.png", "CHAOS", LAYOUT)
        samples.append(_sample(patient, patient / "DICOM_anon", _ct_label(patient, labels)))
    samples += [_sample(p, p / "DICOM_anon", None) for p in _patients(source, "Test_Sets", "CT")]
    return PublicDataset(_description("chaos_ct", "CT in portal phase", "CT"), tuple(samples))


def _description(name: str, images: str, modality: str) -> Description:
    labels = MR_LABELS if modality == "MR" else {0: "background", 1: "liver"}
    return Description(
        name=name,
        title=f"CHAOS abdominal {images}: {', '.join(list(labels.values())[1:])}",
        modality=modality,
        channels=1,
        labels=labels,
        licence="CC BY-NC-SA 4.0",
        reference="https://doi.org/10.5281/zenodo.3431873",
        patients="One series per patient; MR and CT come from different patients.",
        split="Drawn by patient: the official test set has no labels (it is `unlabeled` where it was downloaded).",
        official_images=20,
        official_patients=20,
    )


def _patients(source: Path, part: str, modality: str) -> list[Path]:
    """Returns the folders of the patients in numeric order; none if the test sets were not downloaded."""
    root = source.parent if source.name == "Train_Sets" else source
    candidates = [root / part / modality, root / f"CHAOS_{part}" / part / modality]
    if part == "Test_Sets" and not any(path.is_dir() for path in candidates):
        return []
    folder = first_folder(candidates, "CHAOS", LAYOUT)
    return sorted((path for path in folder.iterdir() if path.is_dir() and path.name.isdigit()), key=natural_key)


def _sample(patient: Path, series: Path, label: OutputFile | None) -> Sample:
    require_folder(series, "CHAOS", LAYOUT)

    def write(path: Path) -> None:
        loaded = read_series(series)
        write_volume(path, loaded.voxels, loaded.affine)

    return Sample(patient.name, OutputFile(f"images/{patient.name}.nii.gz", series, write), label)


def _mr_label(case: str, owner: Path, labels: list[Path], series: str) -> OutputFile:
    """Returns the label volume on the grid of the series whose file names the labels have."""

    def write(path: Path) -> None:
        _, grid = read_grid(owner)
        by_stem = {label.stem: label for label in labels}
        stems = [Path(str(header.filename)).stem for header in grid.headers]
        if set(stems) != set(by_stem):
            odd = sorted(set(stems) ^ set(by_stem))
            raise ValueError(
                f"{owner}: expected a label in Ground for every image, of the same name, found {len(stems)} images, "
                f"{len(by_stem)} labels and {odd[0]} without a partner; unpack the download again."
            )
        if series.endswith("OutPhase"):
            _require_same_grid(owner.with_name("OutPhase"), grid)
        slices = [decode(read_values(by_stem[stem]), MR_CODES, by_stem[stem]) for stem in stems]
        write_volume(path, _stacked(slices, grid, [by_stem[stem] for stem in stems]), grid.affine)

    return OutputFile(f"labels/{case}.nii.gz", owner.parent, write)


def _ct_label(patient: Path, labels: list[Path]) -> OutputFile:
    """Returns the label volume: the n-th label belongs to the n-th image by the numbers in the names."""

    def write(path: Path) -> None:
        series = read_series(patient / "DICOM_anon")
        files = sorted((Path(str(header.filename)) for header in series.grid.headers), key=natural_key)
        if len(files) != len(labels):
            raise ValueError(
                f"{patient}: expected as many labels in Ground as images in DICOM_anon, found {len(labels)} and "
                f"{len(files)}; unpack the download again."
            )
        partner = dict(zip(files, labels, strict=True))
        ordered = [partner[Path(str(header.filename))] for header in series.grid.headers]
        volume = _stacked([read_binary(label) for label in ordered], series.grid, ordered)
        _require_liver_values(series.voxels[volume > 0], patient)
        write_volume(path, volume, series.affine)

    return OutputFile(f"labels/{patient.name}.nii.gz", patient / "Ground", write)


def _stacked(slices: list[np.ndarray], grid: SeriesGrid, paths: list[Path]) -> np.ndarray:
    """Returns label images (rows, columns) as a volume on the grid (columns, rows, slices)."""
    columns, rows, _ = grid.shape
    for label, path in zip(slices, paths, strict=True):
        if label.shape != (rows, columns):
            raise ValueError(
                f"{path}: expected a label of {rows} x {columns} pixels as its image, found {label.shape[0]} x "
                f"{label.shape[1]}; unpack the download again."
            )
    return np.stack(slices).transpose(2, 1, 0)


def _require_same_grid(folder: Path, grid: SeriesGrid) -> None:
    _, other = read_grid(folder)
    if other.shape != grid.shape or not same_grid(grid.shape, grid.affine, other.affine):
        distance = corner_distance(grid.shape, grid.affine, other.affine) if other.shape == grid.shape else float("inf")
        raise ValueError(
            f"{folder}: expected the slices of InPhase, whose labels these images share, found {other.shape} voxels, "
            f"corners {distance:.3g} mm apart, for {grid.shape}; prepare chaos_t1_in instead."
        )


def _require_liver_values(values: np.ndarray, patient: Path) -> None:
    """Rejects labels that do not cover liver tissue: those of another order."""
    fraction = float(((values > LIVER_HU[0]) & (values < LIVER_HU[1])).mean()) if values.size else 0.0
    if fraction < LIVER_FRACTION:
        raise ValueError(
            f"{patient}: expected at least {LIVER_FRACTION:.0%} of the liver between {LIVER_HU[0]:g} and "
            f"{LIVER_HU[1]:g} HU, found {fraction:.0%} of {values.size} voxels; the labels are in another "
            "order than the images, or of another patient. Unpack the download again."
        )

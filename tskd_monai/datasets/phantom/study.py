"""The embedded dataset on disk: NIfTI images and labels of imaginary patients with their datalist."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tskd_monai.data.datalist import SECTIONS
from tskd_monai.data.nifti import write_nifti
from tskd_monai.datasets.phantom.anatomy import LABELS
from tskd_monai.datasets.phantom.render import Grid, make_grid, render, sample_anatomy
from tskd_monai.files.json_files import read_json, write_json

logger = logging.getLogger(__name__)

RECORD = "phantom.json"
FORMAT_VERSION = 1  # increased when the same arguments give different images
SEEDS_PER_STUDY = 10_000


def write_study(
    output_dir: str | Path,
    *,
    seed: int = 0,
    sections: Mapping[str, int],
    shape: tuple[int, int, int] = (96, 96, 24),
    spacing: tuple[float, float, float] = (3.6, 3.6, 7.2),
    axcodes: str = "LAS",
) -> Path:
    """Writes a dataset and returns the path of its `datalist.json`.

    Each case is a different patient. Finished files are kept, so an interrupted call resumes, and repeating the call
    changes nothing; an edited datalist is kept.

    Args:
        output_dir: folder of the dataset.
        seed: seed of the dataset; no two datasets share a patient.
        sections: number of cases in each section, `training`, `validation`, `test` or `unlabeled`.
        shape: voxels along the array axes.
        spacing: mm along the array axes.
        axcodes: directions of the array axes.

    Raises:
        ValueError: if a section is unknown, a number is out of range, or the folder contains another dataset.
    """
    cases = _assign_cases(sections)
    if not 0 <= seed < 2**31:
        raise ValueError(f"Expected a seed in [0, 2**31), found {seed}.")
    grid = make_grid(shape, spacing, axcodes)
    folder = Path(output_dir)
    record = {
        "format_version": FORMAT_VERSION,
        "seed": seed,
        "sections": dict(sections),
        "shape": list(shape),
        "spacing": list(spacing),
        "axcodes": axcodes,
    }
    _claim(folder / RECORD, record)
    datalist: dict[str, Any] = {
        "name": "phantom",
        "description": "Synthetic abdominal MR of no patient",
        "modality": "MR",
        "channels": 1,
        "labels": {str(value): name for value, name in LABELS.items()},
    }
    for section, numbers in cases.items():
        datalist[section] = [_write_case(folder, n, seed, grid, section != "unlabeled") for n in numbers]
    path = folder / "datalist.json"
    if not path.is_file():
        write_json(path, datalist)
    elif read_json(path) != datalist:
        logger.warning("%s differs from the one written with the dataset; it was edited and is kept.", path.name)
    logger.info("Phantom dataset with %d cases is ready.", sum(sections.values()))
    return path


def _assign_cases(sections: Mapping[str, int]) -> dict[str, range]:
    """Returns the case numbers of each section, numbered across all sections."""
    unknown = sorted(set(sections) - set(SECTIONS))
    if unknown or not sections:
        raise ValueError(f"Expected sections among {SECTIONS}, found {unknown or 'none'}.")
    total = sum(sections.values())
    if min(sections.values()) < 0 or not 0 < total <= SEEDS_PER_STUDY:
        raise ValueError(f"Expected 1 to {SEEDS_PER_STUDY} cases in all and none below 0, found {dict(sections)}.")
    ends = np.cumsum(list(sections.values())).tolist()
    return {name: range(end - count, end) for (name, count), end in zip(sections.items(), ends, strict=True)}


def _claim(path: Path, record: dict[str, Any]) -> None:
    """Records what the folder contains, or checks it against the record."""
    if not path.is_file():
        if (path.parent / "datalist.json").exists():
            raise ValueError(
                f"Expected a new folder or a phantom dataset in {path.parent}, found another datalist.json."
            )
        write_json(path, record)
        return
    found = read_json(path)
    if found != record:
        raise ValueError(
            f"{path}: expected a dataset made with {record}, found {found}; choose another folder or delete this one."
        )


def _write_case(folder: Path, number: int, seed: int, grid: Grid, with_label: bool) -> dict[str, str]:
    """Renders one case unless its files exist, and returns its entry in the datalist."""
    case = f"phantom_{number:03d}"
    entry = {"image": f"images/{case}.nii.gz", "case": case}
    if with_label:
        entry["label"] = f"labels/{case}.nii.gz"
    if all((folder / entry[key]).is_file() for key in ("image", "label") if key in entry):
        return entry
    case_seed = seed * SEEDS_PER_STUDY + number
    image, label = render(sample_anatomy(case_seed), grid, case_seed)
    write_nifti(folder / entry["image"], image, grid.matrix)
    if with_label:
        write_nifti(folder / entry["label"], label, grid.matrix)
    return entry

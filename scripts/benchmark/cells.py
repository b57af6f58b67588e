"""The cells of a benchmark suite: one dataset, fold, seed and method each."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).resolve().parent
RESULTS = FOLDER / "results"
RANDOM = "random"


@dataclass(frozen=True)
class Cell:
    """One training and its evaluation.

    Attributes:
        suite: name of the suite's file.
        bundle: that is trained.
        score: section that is scored: `validation` or `test`.
        dataset: short name.
        folder: of the dataset in `TSKD_REAL_DATA`.
        labels: that replace the datalist's, or None.
        image_size: rows and columns the network sees.
        labelled_slices: budget; None for all.
        fold: of the datalist's cross-validation, or None.
        seed: of the draw of labelled slices and of training.
        method: name.
        settings: overrides of the bundle's `train` config.
    """

    suite: str
    bundle: str
    score: str
    dataset: str
    folder: str
    labels: dict[str, str] | None
    image_size: int
    labelled_slices: int | None
    fold: int | None
    seed: int
    method: str
    settings: dict[str, Any]

    @property
    def name(self) -> str:
        """How the cell is called on the command line, and its result file."""
        split = f"seed{self.seed}" if self.fold is None else f"fold{self.fold}"
        return f"{self.dataset}-{split}-{self.method}"

    @property
    def result_file(self) -> Path:
        """Where its numbers are kept."""
        return RESULTS / self.suite / f"{self.name}.json"

    @property
    def config_hash(self) -> str:
        """sha256 of everything that decides the result."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def suite_names() -> list[str]:
    """Returns the names of the suites."""
    return sorted(path.stem for path in (FOLDER / "suites").glob("*.yaml"))


def load_cells(suite: str) -> list[Cell]:
    """Returns the cells of a suite; methods that are to be compared stand beside each other."""
    content = yaml.safe_load((FOLDER / "suites" / f"{suite}.yaml").read_text())
    return [
        Cell(
            suite=suite,
            bundle=content["bundle"],
            score=content["score"],
            dataset=name,
            folder=dataset["folder"],
            labels={str(value): label for value, label in dataset["labels"].items()} if "labels" in dataset else None,
            image_size=content["image_size"],
            labelled_slices=dataset.get("labelled_slices"),
            fold=fold,
            seed=seed,
            method=method,
            settings={**content["settings"], **dataset.get("settings", {}), **settings},
        )
        for name, dataset in content["datasets"].items()
        for fold, seed in _splits(dataset)
        for method, settings in content["methods"].items()
    ]


def _splits(dataset: Mapping[str, Any]) -> Iterator[tuple[int | None, int]]:
    for fold in dataset.get("folds", [None]):
        for seed in dataset["seeds"]:
            yield fold, seed


def data_folder(cell: Cell) -> Path:
    """Returns the folder of the cell's dataset.

    Raises:
        FileNotFoundError: when `TSKD_REAL_DATA` is unset or has no such dataset.
    """
    path = Path(os.environ.get("TSKD_REAL_DATA", "")) / cell.folder
    if "TSKD_REAL_DATA" not in os.environ or not (path / "datalist.json").is_file():
        raise FileNotFoundError(
            f"Expected {cell.folder}/datalist.json in the folder that TSKD_REAL_DATA names "
            f"({os.environ.get('TSKD_REAL_DATA', 'unset')}), found none. Set it to the folder of the datasets."
        )
    return path


def weights_file(name: str) -> str:
    """Returns the path of a weights file in `TSKD_WEIGHTS`; `random` and `shipped` stay as they are.

    Raises:
        FileNotFoundError: when it is not there.
    """
    if name in (RANDOM, "shipped"):
        return name
    path = Path(os.environ.get("TSKD_WEIGHTS", "")) / name
    if "TSKD_WEIGHTS" not in os.environ or not path.is_file():
        raise FileNotFoundError(
            f"Expected {name} in the folder that TSKD_WEIGHTS names ({os.environ.get('TSKD_WEIGHTS', 'unset')}), "
            "found none. Set it to the folder of the weights."
        )
    return str(path)

"""The cells of a benchmark suite: one split of a dataset and one method each, made of stages that cells share."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).resolve().parent
RESULTS = FOLDER / "results"
COSTS = RESULTS / "training_cost"
RANDOM = "random"


@dataclass(frozen=True)
class Split:
    """A dataset with a fold, a label budget and a seed.

    Attributes:
        dataset: short name.
        folder: folder of the dataset in `TSKD_REAL_DATA`.
        labels: names that replace the datalist's, or None.
        image_size: rows and columns of the network input.
        labelled_slices: label budget; None: all.
        planned_from: budget whose labels the task is planned from, so that larger budgets have the same task; None: its
            own.
        fold: fold of the datalist's cross-validation, or None.
        seed: seed of the draw of labelled slices and of training.
    """

    dataset: str
    folder: str
    labels: dict[str, str] | None
    image_size: int
    labelled_slices: int | None
    planned_from: int | None
    fold: int | None
    seed: int

    @property
    def name(self) -> str:
        """Fold, or the seed if there are no folds."""
        return f"seed{self.seed}" if self.fold is None else f"fold{self.fold}"

    @property
    def key(self) -> str:
        """Hex SHA-256 of all fields."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Stage:
    """A run of a bundle, as a suite describes it.

    Attributes:
        name: name of the stage.
        bundle: name of the bundle.
        configs: names of its config files; later ones override earlier ones.
        settings: overrides of config ids.
        inputs: option -> stage whose output folder is its value.
        label_free: whether it reads no training label, so that all budgets share it.
    """

    name: str
    bundle: str
    configs: tuple[str, ...]
    settings: dict[str, Any]
    inputs: dict[str, Stage]
    label_free: bool

    def split(self, split: Split) -> Split:
        """Returns the split reduced to what this stage depends on."""
        if not self.label_free:
            return split
        budget = split.planned_from or split.labelled_slices
        return replace(split, dataset=split.folder, labelled_slices=budget, planned_from=None)

    def key(self, split: Split) -> str:
        """Hex SHA-256 of everything that determines the output; stages that differ only in name share it."""
        inputs = {option: stage.key(split) for option, stage in self.inputs.items()}
        own = {**asdict(replace(self, name="", inputs={})), "inputs": inputs, "study": asdict(self.split(split))}
        return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()

    def chain(self) -> list[Stage]:
        """Returns the stages that this one depends on, in order, and itself."""
        before = [stage for needed in self.inputs.values() for stage in needed.chain()]
        return list({stage.name: stage for stage in [*before, self]}.values())


@dataclass(frozen=True)
class Cell:
    """A method on a split of a dataset, and its evaluation.

    Attributes:
        suite: name of the suite's file.
        score: section that is scored: `validation` or `test`.
        split: split that it is trained on.
        stage: last stage of the method; its model is scored.
    """

    suite: str
    score: str
    split: Split
    stage: Stage

    @property
    def method(self) -> str:
        """Name of the method."""
        return self.stage.name

    @property
    def name(self) -> str:
        """Name of the cell on the command line and in the results."""
        return f"{self.split.dataset}-{self.split.name}-{self.method}"

    @property
    def config_hash(self) -> str:
        """SHA-256 of everything that determines the result."""
        return hashlib.sha256(f"{self.stage.key(self.split)} {self.score}".encode()).hexdigest()


def suite_names() -> list[str]:
    """Returns the names of the suites."""
    return sorted(path.stem for path in (FOLDER / "suites").glob("*.yaml"))


def read_suite(suite: str) -> dict[str, Any]:
    """Returns the content of a suite's file."""
    return dict(yaml.safe_load((FOLDER / "suites" / f"{suite}.yaml").read_text()))


def load_cells(suite: str) -> list[Cell]:
    """Returns the cells of a suite: all splits for the first method, then for the next."""
    content = read_suite(suite)
    stages = _stages(content)
    methods = content.get("methods", list(stages))
    return [
        Cell(suite, content["score"], split, stages[method])
        for method in methods
        for split in _splits(content)
        if split.dataset not in content.get("left_out", {}).get(method, [])
    ]


def _stages(content: Mapping[str, Any]) -> dict[str, Stage]:
    """Returns the stages by name; each takes the suite's defaults, and its inputs are named before it."""
    stages: dict[str, Stage] = {}
    defaults = content.get("defaults", {})
    for name, described in content["stages"].items():
        stages[name] = Stage(
            name=name,
            bundle=described.get("bundle", defaults.get("bundle")),
            configs=tuple(described.get("configs", defaults.get("configs"))),
            settings={**defaults.get("settings", {}), **described.get("settings", {})},
            inputs={option: stages[needed] for option, needed in described.get("inputs", {}).items()},
            label_free=described.get("label_free", False),
        )
    return stages


def _splits(content: Mapping[str, Any]) -> Iterator[Split]:
    for name, dataset in content["datasets"].items():
        labels = {str(value): label for value, label in dataset["labels"].items()} if "labels" in dataset else None
        for fold in dataset.get("folds", [None]):
            for seed in dataset["seeds"]:
                yield Split(
                    name, dataset["folder"], labels, content["image_size"], dataset.get("labelled_slices"),
                    dataset.get("planned_from"), fold, seed,
                )  # fmt: skip


def data_folder(split: Split) -> Path:
    """Returns the folder of the dataset.

    Raises:
        FileNotFoundError: if `TSKD_REAL_DATA` is unset or has no such dataset.
    """
    return _given_file("TSKD_REAL_DATA", f"{split.folder}/datalist.json", "datasets").parent


def weights_file(name: str) -> str:
    """Returns the path of a weights file in `TSKD_WEIGHTS`; `random` and `shipped` stay as they are.

    Raises:
        FileNotFoundError: if it is not there.
    """
    return name if name in (RANDOM, "shipped") else str(_given_file("TSKD_WEIGHTS", name, "weights"))


def _given_file(variable: str, name: str, kind: str) -> Path:
    path = Path(os.environ.get(variable, "")) / name
    if variable not in os.environ or not path.is_file():
        raise FileNotFoundError(
            f"Expected {name} in the folder that {variable} names ({os.environ.get(variable, 'unset')}), found none. "
            f"Set it to the folder of the {kind}."
        )
    return path

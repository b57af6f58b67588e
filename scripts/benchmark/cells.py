"""The cells of a benchmark suite: one split of a dataset and one method each, made of stages that cells share.

A suite with `protocol: 2` is measured by the rules of the second round: float32, lengths of training from a budget of
multiply-adds, seeds of teachers and students, kept predictions, no recipe patient in `test`. Its further entries:

    multiply_adds: {teacher: 4.0e+13, student: 2.0e+13}   # what the stages of each kind in a method spend together
    datasets: NAME: {teacher_seeds: [0, 1, 2], student_seeds: [0, 1], largest_component: true, ...}
    stages: NAME: {fraction: 0.9, ...}    # of the student's budget; with `kind: teacher`, of the teacher's
            NAME: {kind: teacher, member: 1, ...}   # another seed than `member: 0`: one of several teachers
            NAME: {inputs: {teacher_dirs: [A, B]}, ...}     # a list of folders
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).resolve().parent
RESULTS = FOLDER / "results"
COSTS = RESULTS / "training_cost"
RANDOM = "random"
SECOND = 2
KINDS = ("teacher", "student")
UNTRAINED = ("inference.yaml", "targets.yaml", "gate.yaml")


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
        seed: seed of the draw of labelled slices and, without the next two, of training.
        teacher_seed: seed of the training of teachers; None: the first protocol.
        student_seed: seed of the training of students, likewise.
    """

    dataset: str
    folder: str
    labels: dict[str, str] | None
    image_size: int
    labelled_slices: int | None
    planned_from: int | None
    fold: int | None
    seed: int
    teacher_seed: int | None = None
    student_seed: int | None = None

    @property
    def name(self) -> str:
        """Fold, or the seed if there are no folds; and the seeds of training."""
        name = f"seed{self.seed}" if self.fold is None else f"fold{self.fold}"
        if self.teacher_seed is None:
            return name
        drawn = f"-draw{self.seed}" if self.fold is not None and self.seed else ""
        return f"{name}{drawn}-t{self.teacher_seed}-s{self.student_seed}"

    @property
    def data(self) -> Split:
        """The split without the seeds of training."""
        return replace(self, teacher_seed=None, student_seed=None)

    @property
    def data_fields(self) -> dict[str, Any]:
        """Everything that decides the data."""
        return {key: value for key, value in asdict(self).items() if key not in ("teacher_seed", "student_seed")}

    @property
    def key(self) -> str:
        """Hex SHA-256 of everything that decides the data."""
        return hashlib.sha256(json.dumps(self.data_fields, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Stage:
    """A run of a bundle, as a suite describes it.

    Attributes:
        name: name of the stage.
        bundle: name of the bundle.
        configs: names of its config files; later ones override earlier ones.
        settings: overrides of config ids.
        inputs: option -> stage whose output folder is its value, or several.
        label_free: whether it reads no training label, so that all budgets share it.
        kind: `teacher` or `student`: whose seed and budget it has.
        member: number of a teacher among several.
        fraction: its part of the budget of its kind.
        multiply_adds: the same in multiply-adds; None: its settings state the steps, or it trains nothing.
    """

    name: str
    bundle: str
    configs: tuple[str, ...]
    settings: dict[str, Any]
    inputs: dict[str, Stage | tuple[Stage, ...]]
    label_free: bool
    kind: str = "student"
    member: int = 0
    fraction: float = 0.0
    multiply_adds: float | None = None

    def seed(self, split: Split) -> int:
        """Returns the seed of its training."""
        seed = split.teacher_seed if self.kind == "teacher" else split.student_seed
        return split.seed if seed is None else seed + 100 * self.member

    def needs(self) -> dict[str, tuple[Stage, ...]]:
        """Returns the stages of each input."""
        return {option: needed if isinstance(needed, tuple) else (needed,) for option, needed in self.inputs.items()}

    def split(self, split: Split) -> Split:
        """Returns the split reduced to what this stage depends on."""
        split = split.data
        if not self.label_free:
            return split
        budget = split.planned_from or split.labelled_slices
        return replace(split, dataset=split.folder, labelled_slices=budget, planned_from=None)

    def key(self, split: Split) -> str:
        """Hex SHA-256 of everything that determines the output; stages that differ only in name share it."""
        keys = {option: [stage.key(split) for stage in needed] for option, needed in self.needs().items()}
        inputs = {
            option: keys[option] if isinstance(self.inputs[option], tuple) else keys[option][0] for option in keys
        }
        own: dict[str, Any] = {"name": "", "bundle": self.bundle, "configs": self.configs, "settings": self.settings}
        own |= {"inputs": inputs, "label_free": self.label_free, "study": self.split(split).data_fields}
        if split.teacher_seed is not None:
            own |= {"seed": self.seed(split), "multiply_adds": self.multiply_adds}
        return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()

    def chain(self) -> list[Stage]:
        """Returns the stages that this one depends on, in order, and itself."""
        before = [stage for needed in self.needs().values() for first in needed for stage in first.chain()]
        return list({stage.name: stage for stage in [*before, self]}.values())


@dataclass(frozen=True)
class Cell:
    """A method on a split of a dataset, and its evaluation.

    Attributes:
        suite: name of the suite's file.
        score: section that is scored: `validation` or `test`.
        split: split that it is trained on.
        stage: last stage of the method; its model is scored.
        protocol: 1, or 2 as at the top of this file.
        largest_component: whether the score is of the largest component of every class (protocol 2).
    """

    suite: str
    score: str
    split: Split
    stage: Stage
    protocol: int = 1
    largest_component: bool = False

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
        """SHA-256 of everything that determines the result; post-processing is applied to the kept predictions."""
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
    protocol = content.get("protocol", 1)
    if protocol >= SECOND:
        _check_protocol(suite, {method: stages[method].chain() for method in methods})
    return [
        Cell(suite, content["score"], split, stages[method], protocol, dataset.get("largest_component", False))
        for method in methods
        for name, dataset in content["datasets"].items()
        if name not in content.get("left_out", {}).get(method, [])
        for split in _splits(name, dataset, content, {stage.kind for stage in stages[method].chain()})
    ]


def _check_protocol(suite: str, chains: Mapping[str, list[Stage]]) -> None:
    """Raises ValueError unless every stage runs in float32 and every method spends the whole budget of each kind."""
    for method, chain in chains.items():
        for stage in chain:
            precision, trained = stage.settings.get("precision", "float32"), stage.configs[-1] not in UNTRAINED
            if precision != "float32":
                raise ValueError(f"{suite}.yaml: expected float32 in stage {stage.name}, found {precision}.")
            if trained == (stage.multiply_adds is None) or (trained and "epoch_length" in stage.settings):
                message = f"{suite}.yaml: expected a `fraction` in stage {stage.name} if and only if it is trained"
                raise ValueError(f"{message}, and no epoch_length, which follows from it.")
        spent: dict[tuple[str, int], float] = {}
        for stage in chain:
            spent[stage.kind, stage.member] = spent.get((stage.kind, stage.member), 0.0) + stage.fraction
        wrong = {kind: total for (kind, _), total in spent.items() if total and abs(total - 1) > 1e-6}
        if wrong:
            raise ValueError(f"{suite}.yaml: expected fractions that add up to 1 in {method}, found {wrong}.")


def _stages(content: Mapping[str, Any]) -> dict[str, Stage]:
    """Returns the stages by name; each takes the suite's defaults, and its inputs are named before it."""
    stages: dict[str, Stage] = {}
    defaults = content.get("defaults", {})
    budgets = content.get("multiply_adds", {})
    for name, described in content["stages"].items():
        kind, fraction = described.get("kind", "student"), described.get("fraction")
        if kind not in KINDS or (fraction is not None and kind not in budgets):
            raise ValueError(f"Stage {name}: expected a kind in {KINDS} with a budget in multiply_adds, found {kind}.")
        inputs = described.get("inputs", {})
        stages[name] = Stage(
            name=name,
            bundle=described.get("bundle", defaults.get("bundle")),
            configs=tuple(described.get("configs", defaults.get("configs"))),
            settings={**defaults.get("settings", {}), **described.get("settings", {})},
            inputs={
                option: tuple(stages[one] for one in needed) if isinstance(needed, list) else stages[needed]
                for option, needed in inputs.items()
            },
            label_free=described.get("label_free", False),
            kind=kind,
            member=described.get("member", 0),
            fraction=fraction or 0.0,
            multiply_adds=None if fraction is None else float(fraction * float(budgets[kind])),
        )
    return stages


def _splits(name: str, dataset: Mapping[str, Any], content: Mapping[str, Any], kinds: set[str]) -> Iterator[Split]:
    """Returns the splits of a dataset for a method; a seed of a kind that it has no stage of does not vary."""
    labels = {str(value): label for value, label in dataset["labels"].items()} if "labels" in dataset else None
    second = content.get("protocol", 1) >= SECOND
    given = {kind: dataset.get(f"{kind}_seeds", [0]) if second else [None] for kind in KINDS}
    given = {kind: seeds if kind in kinds else seeds[:1] for kind, seeds in given.items()}
    seeds = [(seed, *pair) for seed in dataset["seeds"] for pair in product(*(given[kind] for kind in KINDS))]
    for fold in dataset.get("folds", [None]):
        for seed, teacher_seed, student_seed in seeds:
            yield Split(
                name, dataset["folder"], labels, content["image_size"], dataset.get("labelled_slices"),
                dataset.get("planned_from"), fold, seed, teacher_seed, student_seed,
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

"""The task: the classes to segment and the preprocessing of images, in one file that every stage reads."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from tskd_monai.files.json_files import is_a, read_json, write_json
from tskd_monai.files.option_path import text_path

FORMAT_VERSION = 1
AXIS_OF_LETTER = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}
NAME = re.compile(r"\w[^\x00-\x1f\x7f]*")
"""Pattern of task and class names, which appear in configs and tables whose readers may evaluate a leading `$` or
`=`."""

LARGEST_IMAGE_SIZE = 4096
INTENSITY_MODES = ("percentile", "hu_window", "rgb")
CODES = ("category", "type", "laterality")
WARN, REFUSE = "warn", "refuse"
MOST_NEIGHBOURS = 2
NOT_LEARNED = ("training_images", "unlike_training", "unfiltered", "neighbours", "quality", "ignore")
"""Fields that do not affect what a teacher learns; they are not part of the task's hash."""


@dataclass(frozen=True)
class Label:
    """One class of the task.

    Attributes:
        value: value in label files and in predictions.
        name: name, for example `liver`.
        snomed: optional codes for DICOM SEG, `{"category": [value, scheme, meaning], "type": …, "laterality": …}`.
    """

    value: int
    name: str
    snomed: dict[str, Any] | None = None


@dataclass(frozen=True)
class Intensity:
    """Scaling of image values to [0, 1].

    Attributes:
        mode: `percentile` (of each volume: MR, ultrasound), `hu_window` (CT) or `rgb` (0 to 255).
        lower: percentile, or HU, that maps to 0.
        upper: percentile, or HU, that maps to 1.
    """

    mode: str
    lower: float
    upper: float


@dataclass(frozen=True)
class TrainingImages:
    """Ranges over the training images, lowest and highest, with which an image is compared before it is segmented.

    Attributes:
        field_of_view_mm: longer side of the slices, mm (pixels for images without a spacing).
        pixel_mm: row and column spacing, mm (1 for images without a spacing).
        slice_mm: distance between slices, mm; None for 2D images.
        values: smallest 0.5th and largest 99.5th percentile of whole images.
    """

    field_of_view_mm: tuple[float, float]
    pixel_mm: tuple[float, float]
    slice_mm: tuple[float, float] | None
    values: tuple[float, float]


@dataclass(frozen=True)
class QualityLimits:
    """Limits of the verdict on a segmentation, for a student with a quality file.

    Attributes:
        look_dice: predicted Dice of a structure below which a person should look.
        reject_dice: mean predicted Dice below which a case is rejected.
        look_distance: distance of the features, in multiples of the most unusual training patient's.
        reject_distance: distance of the features above which a case is rejected.
        look_deviations: standard deviations of volume, position and extent from those of the training patients.
        look_second_part: size of a second part of a structure as a fraction of the largest.
        look_cut: area in the first or last slice as a fraction of the largest area of a slice, beyond that in training.
    """

    look_dice: float = 0.7
    reject_dice: float = 0.3
    look_distance: float = 1.5
    reject_distance: float = 3.0
    look_deviations: float = 4.0
    look_second_part: float = 0.4
    look_cut: float = 0.3


@dataclass(frozen=True)
class Task:
    """Definition of a task, shared by its stages.

    Attributes:
        name: name of the task.
        labels: labels in the order of the network's classes, background first.
        channels: channels of the images, 1 (grey) or 3 (colour).
        image_size: rows and columns of the networks' input, multiples of 16.
        pixdim: row and column spacing of the networks' input, mm (pixels for images without a spacing).
        axcodes: orientation in which volumes are processed, slices along the last axis; None for 2D images.
        intensity: scaling of values to [0, 1].
        class_frequencies: fraction of each class among the labelled training voxels.
        foreground_oversampling: fraction of the training slices that are drawn from those with foreground.
        keep_largest_component: label values of which only the largest connected component is kept.
        training_images: ranges over the training images; None: unknown.
        unlike_training: `warn` of an image far outside of these ranges, or `refuse` it.
        unfiltered: label values in `keep_largest_component` of which all components are kept nevertheless, because the
            filter lowered the validation Dice of a network; empty in a plan.
        neighbours: slices on each side that a student takes as further channels, 0 to 2; a teacher takes single slices.
        quality: limits of the verdict on a segmentation.
        ignore: value in label files of voxels that are left out of losses and metrics; None: there are none.
    """

    name: str
    labels: tuple[Label, ...]
    channels: int
    image_size: tuple[int, int]
    pixdim: tuple[float, float]
    axcodes: str | None
    intensity: Intensity
    class_frequencies: tuple[float, ...] = ()
    foreground_oversampling: float = 0.5
    keep_largest_component: tuple[int, ...] = ()
    training_images: TrainingImages | None = None
    unlike_training: str = WARN
    unfiltered: tuple[int, ...] = ()
    neighbours: int = 0
    quality: QualityLimits = QualityLimits()
    ignore: int | None = None

    def __post_init__(self) -> None:
        """Raises ValueError when a field is out of range, naming the field."""
        _require(is_a(self.name, str) and self.name != "", "name", "a text", self.name)
        _require_name(self.name)
        self._check_labels()
        _require(is_a(self.channels, int) and self.channels in (1, 3), "channels", "1 or 3", self.channels)
        largest, sizes = LARGEST_IMAGE_SIZE, self.image_size
        sizes_fit = all(is_a(size, int) and 0 < size <= largest and size % 16 == 0 for size in sizes)
        expected = f"two positive multiples of 16 up to {largest}"
        _require(sizes_fit and len(sizes) == 2, "image_size", expected, sizes)
        spacings_fit = all(_is_finite(spacing) and spacing > 0 for spacing in self.pixdim)
        _require(spacings_fit and len(self.pixdim) == 2, "pixdim", "two positive numbers", self.pixdim)
        axes = "RAS" if self.axcodes is None else self.axcodes
        oriented = is_a(axes, str) and len(axes) == 3 and {AXIS_OF_LETTER.get(letter) for letter in axes} == {0, 1, 2}
        _require(oriented, "axcodes", "a letter each of R or L, A or P, S or I", self.axcodes)
        _require(self.intensity.mode in INTENSITY_MODES, "intensity", f"one of {INTENSITY_MODES}", self.intensity.mode)
        bounded = _is_finite(self.intensity.lower) and _is_finite(self.intensity.upper)
        ordered = bounded and self.intensity.lower < self.intensity.upper
        _require(ordered, "intensity", "lower below upper", self.intensity)
        fraction = self.foreground_oversampling
        _require(_is_fraction(fraction), "foreground_oversampling", "a fraction from 0 to 1", fraction)
        frequencies = self.class_frequencies
        counted = len(frequencies) in (0, self.num_classes) and all(map(_is_fraction, frequencies))
        _require(counted, "class_frequencies", f"{self.num_classes} fractions from 0 to 1, or none", frequencies)
        known = self.label_values[1:]
        kept = self.keep_largest_component
        fits = all(is_a(value, int) and value in known for value in kept)
        _require(fits, "keep_largest_component", f"values among {sorted(known)}", kept)
        fits = all(is_a(value, int) and value in kept for value in self.unfiltered)
        _require(fits, "unfiltered", f"values among {sorted(kept)} of `keep_largest_component`", self.unfiltered)
        fits = is_a(self.neighbours, int) and 0 <= self.neighbours <= MOST_NEIGHBOURS
        _require(fits, "neighbours", f"a number of slices from 0 to {MOST_NEIGHBOURS}", self.neighbours)
        single = self.axcodes is None and self.neighbours > 0
        _require(
            not single, "neighbours", "0 for single 2D images, which have no neighbouring slices,", self.neighbours
        )
        if self.training_images is not None:
            _check_ranges(self.training_images)
        for name, limit in asdict(self.quality).items():
            highest = 1.0 if name.endswith("dice") else math.inf
            fits = _is_finite(limit) and 0 < limit < highest
            _require(fits, f"quality.{name}", "a fraction" if highest == 1 else "a positive number", limit)
        response = self.unlike_training
        _require(is_a(response, str) and response in (WARN, REFUSE), "unlike_training", f"{WARN} or {REFUSE}", response)

    def _check_labels(self) -> None:
        _require(len(self.labels) >= 2, "labels", "background and at least one class", len(self.labels))
        names = [label.name for label in self.labels]
        _require(all(is_a(name, str) and name for name in names), "labels", "a text as each name", names)
        for name in names:
            _require_name(name)
        values = [label.value for label in self.labels]
        _require(all(is_a(value, int) for value in values), "labels", "whole numbers as values", values)
        _require(len(set(values)) == len(values), "labels", "distinct values", values)
        _require(all(0 <= value <= 65535 for value in values), "labels", "values from 0 to 65535", values)
        _require(values[0] == 0, "labels", "background with value 0 first", values)
        fits = self.ignore is None or (is_a(self.ignore, int) and 0 < self.ignore <= 65535)
        _require(fits, "ignore", "a value from 1 to 65535, or none", self.ignore)
        _require(self.ignore not in values, "ignore", "a value that is no label's", self.ignore)
        for label in self.labels:
            _require(_are_codes(label.snomed), "labels", f"[value, scheme, meaning] for {CODES}", label.snomed)

    @property
    def num_classes(self) -> int:
        """Number of classes, background included: the network's output channels."""
        return len(self.labels)

    @property
    def student_channels(self) -> int:
        """Input channels of a student: those of a slice and of its neighbours."""
        return self.channels * (2 * self.neighbours + 1)

    @property
    def label_values(self) -> tuple[int, ...]:
        """Value in label files of each network class."""
        return tuple(label.value for label in self.labels)

    @property
    def label_names(self) -> tuple[str, ...]:
        """Name of each network class."""
        return tuple(label.name for label in self.labels)

    @property
    def foreground(self) -> dict[int, str]:
        """Name of each label value except the background's."""
        return {label.value: label.name for label in self.labels[1:]}

    @property
    def filtered(self) -> tuple[int, ...]:
        """Label values of which only the largest connected component is kept."""
        return tuple(value for value in self.keep_largest_component if value not in self.unfiltered)

    @property
    def learned_fields(self) -> dict[str, Any]:
        """The fields that affect what a teacher learns."""
        return {name: value for name, value in asdict(self).items() if name not in NOT_LEARNED}

    @property
    def student_fields(self) -> dict[str, Any]:
        """The fields that affect what a student learns."""
        return {**self.learned_fields, **({"neighbours": self.neighbours} if self.neighbours else {})}

    @property
    def hash(self) -> str:
        """Hex sha256 of the canonical JSON of `learned_fields`; teachers, their targets and caches store it."""
        return _sha256(self.learned_fields)

    @property
    def student_hash(self) -> str:
        """Hex sha256 of the canonical JSON of `student_fields`, equal to `hash` without neighbours."""
        return _sha256(self.student_fields)


def load_task(path: str | Path | None) -> Task:
    """Returns the task of a `task.json`.

    Raises:
        FileNotFoundError: when there is no file; states how to write one or to set `--bundle_root`.
        ValueError: when a field is missing, unknown or out of range; names file and field.
    """
    if path is None:
        raise ValueError("Expected --task with the path of a task.json; write one with tskd plan DATALIST.")
    path = text_path(path, "task")
    if not path.is_file():
        raise FileNotFoundError(
            f"Expected the task at {path}, found none. Give --task; in a student bundle the task is configs/task.json "
            "below --bundle_root, which must be given when the working directory is not the bundle."
        )
    content = read_json(path)
    try:
        return _parse(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def save_task(task: Task, path: str | Path) -> None:
    """Writes the task as JSON that `load_task` reads back equal."""
    write_json(path, {"format_version": FORMAT_VERSION, **asdict(task)})


def require_same_task(found: str, task: Task, artefact: str | Path) -> None:
    """Raises ValueError when `artefact` was made for another task.

    Args:
        found: task hash in the artefact.
        task: task of this run.
        artefact: path of the artefact, for the message.
    """
    if found != task.hash:
        raise ValueError(
            f"{artefact} was made for another task: expected task hash {task.hash[:12]} ({task.name}), "
            f"found {str(found)[:12]}. Use the task.json it was made with, or make it again."
        )


def _sha256(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _require_name(name: str) -> None:
    _require(bool(NAME.fullmatch(name)), "name", "names of one line that begin with a letter or digit", repr(name))


def _require(condition: bool, field: str, expected: str, found: object) -> None:
    if not condition:
        raise ValueError(f"expected {expected} in `{field}`, found {found!s:.200}")


def _is_finite(value: object) -> bool:
    return is_a(value, float) and math.isfinite(value)  # type: ignore[arg-type]


def _check_ranges(ranges: TrainingImages) -> None:
    """Raises ValueError for an invalid range; names it."""
    for name, found in asdict(ranges).items():
        if name == "slice_mm" and found is None:
            continue
        numbers = isinstance(found, tuple) and len(found) == 2 and all(_is_finite(value) for value in found)
        ordered = numbers and found[0] <= found[1] and (name == "values" or found[0] > 0)
        expected = "two numbers" if name == "values" else "two positive numbers"
        _require(ordered, f"training_images.{name}", f"{expected}, the lower first,", found)


def _is_fraction(value: object) -> bool:
    return _is_finite(value) and 0 <= value <= 1  # type: ignore[operator]


def _are_codes(snomed: object) -> bool:
    """Returns whether these are codes for DICOM SEG; there may be none."""
    if snomed is None:
        return True
    return isinstance(snomed, dict) and all(
        key in CODES
        and isinstance(coding, (list, tuple))
        and len(coding) == 3
        and all(is_a(part, str) for part in coding)
        for key, coding in snomed.items()
    )


def _parse(content: Any) -> Task:
    if not isinstance(content, dict):
        raise ValueError(f"expected an object, found {type(content).__name__}")
    content = dict(content)
    version = content.pop("format_version", None)
    _require(is_a(version, int) and version == FORMAT_VERSION, "format_version", str(FORMAT_VERSION), version)
    _require_fields(content, Task, "task")
    for name in ("labels", "image_size", "pixdim", "class_frequencies", "keep_largest_component", "unfiltered"):
        if name in content:
            _require(isinstance(content[name], list), name, "a list", content[name])
            content[name] = tuple(content[name])
    for part, of, name in [(part, Label, "labels") for part in content["labels"]] + [
        (content["intensity"], Intensity, "intensity")
    ]:
        _require(isinstance(part, dict), name, "an object", part)
        _require_fields(part, of, name)
    ranges = content.get("training_images")
    if ranges is not None:
        _require(isinstance(ranges, dict), "training_images", "an object", ranges)
        _require_fields(ranges, TrainingImages, "training_images")
        listed = {name: tuple(found) if isinstance(found, list) else found for name, found in ranges.items()}
        content["training_images"] = TrainingImages(**listed)
    limits = content.get("quality", {})
    _require(isinstance(limits, dict), "quality", "an object", limits)
    _require_fields(limits, QualityLimits, "quality")
    content["quality"] = QualityLimits(**limits)
    content["labels"] = tuple(Label(**label) for label in content["labels"])
    content["intensity"] = Intensity(**content["intensity"])
    return Task(**content)


def _require_fields(content: Mapping[str, Any], of: type, name: str) -> None:
    """Raises ValueError unless an object has exactly the fields of a dataclass."""
    known = {field.name for field in fields(of)}
    _require(set(content) <= known, name, f"fields among {sorted(known)}", sorted(set(content) - known))
    missing = sorted(field.name for field in fields(of) if field.default is MISSING and field.name not in content)
    _require(not missing, name, f"the fields {missing}", "none")

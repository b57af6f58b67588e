"""The task: what is segmented and how images are brought to the networks, in one file that every stage reads."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from tskd_monai.data.atomic import read_json, write_json

FORMAT_VERSION = 1
AXIS_OF_LETTER = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}
NAME = re.compile(r"\w[^\x00-\x1f\x7f]*")
"""Of a study or class: it ends up in configs and tables, whose readers may evaluate what begins with `$` or `=`."""

LARGEST_IMAGE_SIZE = 4096
INTENSITY_MODES = ("percentile", "hu_window", "rgb")


@dataclass(frozen=True)
class Label:
    """One class of the task.

    Attributes:
        value: its value in label files and in predictions.
        name: for example `liver`.
        snomed: optional codes for DICOM SEG, `{"category": [value, scheme, meaning], "type": …, "laterality": …}`.
    """

    value: int
    name: str
    snomed: dict[str, Any] | None = None


@dataclass(frozen=True)
class Intensity:
    """How image values become [0, 1].

    Attributes:
        mode: `percentile` (of each volume: MR, ultrasound), `hu_window` (CT) or `rgb` (0 to 255).
        lower: percentile, or HU, that becomes 0.
        upper: percentile, or HU, that becomes 1.
    """

    mode: str
    lower: float
    upper: float


@dataclass(frozen=True)
class Task:
    """What every stage of one study has in common.

    Attributes:
        name: of the study.
        labels: index is the network's class, the first is background.
        channels: of the images, 1 (grey) or 3 (colour).
        image_size: rows and columns that the networks see, multiples of 16.
        pixdim: row and column spacing at which they see them, mm (pixels for images without a spacing).
        axcodes: orientation in which volumes are handled, slices along the last axis; None for 2D images.
        intensity: how values become [0, 1].
        class_frequencies: share of each class among the labelled training voxels.
        foreground_oversampling: share of the training slices that is drawn from those with foreground.
        keep_largest_component: label values of which only the largest connected component is kept.
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

    def __post_init__(self) -> None:
        """Raises ValueError when a field is out of range, naming the field."""
        for name in (self.name, *(label.name for label in self.labels)):
            _require(
                isinstance(name, str) and bool(NAME.fullmatch(name)),
                "name",
                "names of one line that begin with a letter or digit",
                repr(name),
            )
        _require(len(self.labels) >= 2, "labels", "background and at least one class", len(self.labels))
        values = [label.value for label in self.labels]
        _require(len(set(values)) == len(values), "labels", "distinct values", values)
        _require(all(0 <= value <= 65535 for value in values), "labels", "values from 0 to 65535", values)
        _require(values[0] == 0, "labels", "background with value 0 first", values)
        _require(self.channels in (1, 3), "channels", "1 or 3", self.channels)
        largest = LARGEST_IMAGE_SIZE
        sizes_fit = len(self.image_size) == 2 and all(
            0 < size <= largest and size % 16 == 0 for size in self.image_size
        )
        _require(sizes_fit, "image_size", f"two positive multiples of 16 up to {largest}", self.image_size)
        _require(len(self.pixdim) == 2 and min(self.pixdim) > 0, "pixdim", "two positive numbers", self.pixdim)
        axes = {AXIS_OF_LETTER.get(letter) for letter in self.axcodes or "RAS"}
        oriented = axes == {0, 1, 2} and len(self.axcodes or "RAS") == 3
        _require(oriented, "axcodes", "a letter each of R or L, A or P, S or I", self.axcodes)
        _require(self.intensity.mode in INTENSITY_MODES, "intensity", f"one of {INTENSITY_MODES}", self.intensity.mode)
        _require(self.intensity.lower < self.intensity.upper, "intensity", "lower below upper", self.intensity)
        share = self.foreground_oversampling
        _require(0 <= share <= 1, "foreground_oversampling", "a share from 0 to 1", share)
        known = set(values[1:])
        kept = self.keep_largest_component
        _require(set(kept) <= known, "keep_largest_component", f"values among {sorted(known)}", kept)

    @property
    def num_classes(self) -> int:
        """Number of classes with background: the network's output channels."""
        return len(self.labels)

    @property
    def label_values(self) -> tuple[int, ...]:
        """Value in label files of each network class."""
        return tuple(label.value for label in self.labels)

    @property
    def foreground(self) -> dict[int, str]:
        """Name of each label value but background's."""
        return {label.value: label.name for label in self.labels[1:]}

    @property
    def hash(self) -> str:
        """Hex sha256 of the task's canonical JSON: what a checkpoint, cache or transfer set was made for."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def load_task(path: str | Path | None) -> Task:
    """Returns the task of a `task.json`.

    Raises:
        FileNotFoundError: when there is none; says how to write one or to set `--bundle_root`.
        ValueError: when a field is missing, unknown or out of range; names file and field.
    """
    if path is None:
        raise ValueError("Expected --task with the path of a task.json; write one with scripts/plan_task.py DATALIST.")
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"Expected the task at {path}, found none. Give --task; in a student bundle the task is configs/task.json "
            "below --bundle_root, which must be given when the working directory is not the bundle."
        )
    content = read_json(path)
    try:
        return _parse(content)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error


def save_task(task: Task, path: str | Path) -> None:
    """Writes the task as JSON that `load_task` reads back equal."""
    write_json(path, {"format_version": FORMAT_VERSION, **asdict(task)})


def require_same_task(found: str, task: Task, artefact: str | Path) -> None:
    """Raises ValueError when `artefact` was made for another task.

    Args:
        found: the task hash that the artefact carries.
        task: the task of this run.
        artefact: what is loaded; named in the message.
    """
    if found != task.hash:
        raise ValueError(
            f"{artefact} was made for another task: expected task hash {task.hash[:12]} ({task.name}), "
            f"found {str(found)[:12]}. Use the task.json it was made with, or make it again."
        )


def _require(condition: bool, field: str, expected: str, found: object) -> None:
    if not condition:
        raise ValueError(f"expected {expected} in `{field}`, found {found}")


def _parse(content: Any) -> Task:
    if not isinstance(content, dict):
        raise ValueError(f"expected an object, found {type(content).__name__}")
    content = dict(content)
    version = content.pop("format_version", None)
    _require(version == FORMAT_VERSION, "format_version", str(FORMAT_VERSION), version)
    known = {field.name for field in fields(Task)}
    _require(set(content) <= known, "task", f"fields among {sorted(known)}", sorted(set(content) - known))
    for name in ("labels", "image_size", "pixdim", "class_frequencies", "keep_largest_component"):
        if name in content:
            _require(isinstance(content[name], list), name, "a list", content[name])
            content[name] = tuple(content[name])
    content["labels"] = tuple(Label(**label) for label in content.get("labels", ()))
    _require(isinstance(content.get("intensity"), dict), "intensity", "an object", content.get("intensity"))
    content["intensity"] = Intensity(**content["intensity"])
    return Task(**content)

"""Survey of a dataset: its content, unusual cases, and every case that planning or training would refuse."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tskd_monai.data.datalist import LABEL_KEYS, SECTIONS, case_names
from tskd_monai.data.image_file import is_image_file
from tskd_monai.data.planning.fingerprint import (
    Fingerprint,
    ReadCase,
    RefusedCase,
    check_channels,
    check_kind,
    check_new,
    is_blank,
    read_case,
)
from tskd_monai.data.planning.rules import check_labels_found, declared_labels, draft_task, reading_of, slice_axis_of
from tskd_monai.data.planning.unlike_cases import SurveyedCase, Unlike, unlike_cases
from tskd_monai.data.task import Task
from tskd_monai.files.redaction import redact_paths

Look = Callable[[str, ReadCase], None]
"""Function of the name of a case and the case in memory."""


@dataclass(frozen=True)
class Refusal:
    """A case, or a dataset, that planning or training would refuse.

    Attributes:
        section: section of the datalist; "" for the dataset as a whole.
        case: name of the case; "" for the dataset as a whole, and for an entry without one.
        reason: error message without paths.
    """

    section: str
    case: str
    reason: str

    def __str__(self) -> str:
        """Returns section, case and reason in one line."""
        where = f"{self.section}, case {self.case}: " if self.case else f"{self.section}: " if self.section else ""
        return where + self.reason


@dataclass(frozen=True)
class Survey:
    """Content of a dataset.

    Attributes:
        name: name of the dataset.
        labels: value -> name of each foreground class.
        flat: whether images are 2D files, without a spacing.
        listed: number of cases and of images in each section, readable or not.
        cases: readable images, in the order of the datalist.
        refused: everything that planning or training would refuse.
        task: task planned from the cases that are not refused; None where planning fails.
        same_images: groups of names of images with the same voxels.
        same_labels: groups of names of images of different cases with the same label.
        unlike: differences of images from most others.
        description: `description` of the datalist.
    """

    name: str
    labels: Mapping[int, str]
    flat: bool
    listed: Mapping[str, tuple[int, int]]
    cases: Sequence[SurveyedCase]
    refused: Sequence[Refusal]
    task: Task | None
    same_images: Sequence[Sequence[str]]
    same_labels: Sequence[Sequence[str]]
    unlike: Unlike
    description: str = ""

    @property
    def volume_unit(self) -> str:
        """Unit of volumes."""
        return "pixels" if self.flat else "mL"

    @property
    def partly_labelled(self) -> list[str]:
        """One text for each structure that was not drawn in every labelled case, and one on voxels to ignore."""
        labelled = [case for case in self.cases if case.volumes is not None]
        texts = []
        for value, name in self.labels.items():
            drawn = sum(value in (case.volumes or {}) for case in labelled)
            if drawn < len(labelled):
                texts.append(f"{name} was drawn in {drawn} of {len(labelled)} labelled images")
        ignored = sum(bool(case.found.ignored) for case in labelled)
        return texts + ([f"{ignored} of {len(labelled)} labelled images have voxels to ignore"] if ignored else [])

    def refusing(self, check: Callable[[Fingerprint, Task], None]) -> Survey:
        """Returns the survey with the cases added that a check refuses for the planned task.

        Args:
            check: function that raises ValueError for a case.
        """
        if self.task is None:
            return self
        refused = list(self.refused)
        for case in self.cases:
            try:
                check(case.found, self.task)
            except ValueError as error:
                refused.append(Refusal(case.found.section, case.name, str(error)))
        return replace(self, refused=refused)


def survey_dataset(datalist: Mapping[str, Any], refused: Iterable[Refusal] = (), look: Look | None = None) -> Survey:
    """Reads every image and label of a datalist once, one at a time, and returns the survey.

    Args:
        datalist: datalist from `load_datalist`.
        refused: entries that `load_datalist` left out.
        look: called with each readable case.

    Raises:
        ValueError: when the datalist declares no labels or invalid channels, or has no training cases.
    """
    reading = reading_of(datalist)
    cases = _Cases(datalist, refused)
    cases.refuse_other_kind()
    same_labels: dict[str, list[Fingerprint]] = {}
    for section, entry in tqdm(cases.entries(), desc="Reading", unit="case"):
        try:
            case = read_case(entry, section, reading)
        except (ValueError, OSError) as error:
            cases.leave_out(section, entry, refusal(section, entry, error, cases.names[entry["image"]]))
            continue
        cases.prints[entry["image"]] = case.fingerprint
        if case.label_sha256:
            same_labels.setdefault(case.label_sha256, []).append(case.fingerprint)
        if look is not None:
            look(cases.names[entry["image"]], case)
    readable = cases.entries()
    cases.refuse_other_channels(reading.channels)
    cases.refuse_copies()
    task = cases.plan()
    flat = bool(readable) and is_image_file(readable[0][1]["image"])
    axis = slice_axis_of(task) if task is not None else None if flat else 2
    labels = {label.value: label.name for label in declared_labels(datalist)[1:]}
    names = {id(found): cases.names[path] for path, found in cases.prints.items()}
    surveyed = [
        SurveyedCase.of(cases.names[entry["image"]], cases.prints[entry["image"]], entry.get("slices"), labels, axis)
        for _, entry in readable
    ]
    return Survey(
        name=str(datalist.get("name", "dataset")),
        labels=labels,
        flat=flat,
        listed=cases.listed,
        cases=surveyed,
        refused=cases.refused,
        task=task,
        same_images=[[names[id(one)] for one in alike] for alike in cases.same_images()],
        same_labels=[
            [names[id(one)] for one in alike] for alike in same_labels.values() if len({one.case for one in alike}) > 1
        ],
        unlike=unlike_cases(surveyed, labels, axis),
        description=str(datalist.get("description", "")),
    )


def refusal(section: str, entry: Any, error: Exception, name: str = "", source: str | Path | None = None) -> Refusal:
    """Returns the refusal of an entry, without the paths of its files.

    Args:
        section: section of the entry.
        entry: entry as listed, possibly malformed.
        error: error that was raised.
        name: name of the case; "": the entry's `case`.
        source: path of the datalist, a prefix of some messages.
    """
    known = entry if isinstance(entry, Mapping) else {}
    message = str(error).removeprefix(f"{source}: ").partition("\n")[0]  # without the list of series
    paths = [Path(known[key]) for key in ("image", *LABEL_KEYS) if isinstance(known.get(key), str) and known[key]]
    for path in paths:
        if not path.exists():  # a name without an ending is a folder's, which may be a patient's
            message = message.replace(str(path), path.name if path.suffix else "a folder")
    name = name or str(known.get("case", ""))
    return Refusal(section, name, redact_paths(message, [path for path in paths if path.exists()], shown=(name,)))


class _Cases:
    """The cases of a dataset; refused ones are listed and left out of the plan.

    Args:
        datalist: datalist from `load_datalist`.
        refused: entries that `load_datalist` left out.
    """

    def __init__(self, datalist: Mapping[str, Any], refused: Iterable[Refusal]) -> None:
        self.datalist = {**datalist, **{section: list(datalist.get(section, [])) for section in SECTIONS}}
        self.refused = list(refused)
        everything = [entry for _, entry in self.entries()]
        self.names = dict(zip((entry["image"] for entry in everything), case_names(everything), strict=True))
        self.prints: dict[str, Fingerprint] = {}
        self.listed = {}
        for section in SECTIONS:
            out = [other.case for other in self.refused if other.section == section]
            named = [entry["case"] for entry in self.datalist[section]]
            self.listed[section] = (len({*named, *out}), len(named) + len(out))

    def entries(self) -> list[tuple[str, dict[str, Any]]]:
        """Returns section and entry of the cases that have not been refused."""
        return [(section, entry) for section in SECTIONS for entry in self.datalist[section]]

    def leave_out(self, section: str, entry: Mapping[str, Any], why: Refusal) -> None:
        """Adds a refusal, and leaves its case out of the plan."""
        self.refused.append(why)
        self.datalist[section] = [other for other in self.datalist[section] if other is not entry]

    def refuse_other_kind(self) -> None:
        """Refuses 2D images among volumes, or volumes among 2D images: the minority."""
        paths = sorted((entry["image"] for _, entry in self.entries()), key=is_image_file)
        usual = paths[len(paths) // 2] if paths else ""
        for section, entry in self.entries():
            try:
                check_kind(entry["image"], usual)
            except ValueError as error:
                message = redact_paths(str(error), [entry["image"], usual])
                self.leave_out(section, entry, Refusal(section, self.names[entry["image"]], message))

    def refuse_other_channels(self, declared: int | None) -> None:
        """Refuses images with other channels than declared, or than the majority."""
        counted = Counter(found.channels for found in self.prints.values()).most_common(1)
        first = next((found for found in self.prints.values() if found.channels == counted[0][0]), None)
        if first is not None:
            self._refuse(lambda found: check_channels(found, first, declared))

    def refuse_copies(self) -> None:
        """Refuses images that are listed already under another name."""
        seen: dict[str, Fingerprint] = {}
        self._refuse(lambda found: check_new(found, seen))

    def same_images(self) -> list[list[Fingerprint]]:
        """Returns groups of images with the same voxels; blank images are alike and do not count."""
        groups: dict[str, list[Fingerprint]] = {}
        for found in self.prints.values():
            if not is_blank(found):
                groups.setdefault(found.voxels_sha256, []).append(found)
        return [group for group in groups.values() if len(group) > 1]

    def plan(self) -> Task | None:
        """Returns the task planned from the accepted cases, None where planning fails; refuses the others."""
        try:
            task = None
            while task is None:
                task = self._draft()
        except ValueError as error:
            self.refused.append(Refusal("", "", str(error)))
            return None
        try:
            check_labels_found(self.datalist, self.prints, task)
        except ValueError as error:
            self.refused.append(Refusal("", "", str(error)))
        return task

    def _draft(self) -> Task | None:
        """Returns the task; None after a case was refused, when planning has to be repeated."""
        if not self.datalist["training"]:
            raise ValueError("Expected training cases that can be read to plan a task from, found none.")
        prints = {entry["image"]: self.prints[entry["image"]] for _, entry in self.entries()}
        try:
            return draft_task(self.datalist, None, None, None, prints)
        except RefusedCase as error:
            refused = error
        self._refuse(lambda found: _raise_of(found, refused))
        return None

    def _refuse(self, check: Callable[[Fingerprint], None]) -> None:
        """Refuses the cases for which a check raises ValueError; its messages contain no paths."""
        for section, entry in self.entries():
            try:
                check(self.prints[entry["image"]])
            except ValueError as error:
                self.leave_out(section, entry, Refusal(section, self.names[entry["image"]], str(error)))


def _raise_of(found: Fingerprint, error: RefusedCase) -> None:
    if found is error.found:
        raise error

"""The record of a plan: its options and the content of its files, to detect later changes.

Files are identified by content: a dataset that was moved is the same dataset. The `test` section is not used in
training and may change.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from tskd_monai.data.drawn_structures import DRAWN, IGNORE
from tskd_monai.data.image_file import is_image_file
from tskd_monai.data.planning.fingerprint import Fingerprint, Reading, read_fingerprints
from tskd_monai.data.task import AXIS_OF_LETTER, Task
from tskd_monai.files.checksum import ContentHashes
from tskd_monai.files.json_files import check_fields, read_json, shown

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
LEARNED_FROM = ("training", "validation", "unlabeled")
"""Sections whose content determines what a network learns."""

DECLARED = ("labels", "channels", "modality")
SHOWN_CASES = 8
REPLAN = "plan again with --replan, which keeps the old task beside the new one"


@dataclass(frozen=True)
class PlanRecord:
    """Data and options from which a task was planned.

    Attributes:
        options: options as given: `image_size`, `intensity`, `labelled_slices`, `seed`, `fold` and `neighbours`.
        declared: `labels`, `channels` and `modality` of the datalist, where it has them.
        sections: entries of each section, `{"case", "image", "label", "slices"}` with the sha256 of the files.
        voxels: sha256 of the voxels of each training image, independent of the file format.
        slices: number of slices of the training and unlabelled images, labelled or not.
        chosen: labelled slices of each image that were drawn under a budget; None without a budget.
        channels: channels of the images.
        axcodes: orientation in which slices are counted; None for 2D images.
    """

    options: Mapping[str, Any]
    declared: Mapping[str, Any]
    sections: Mapping[str, Sequence[Mapping[str, Any]]]
    voxels: Sequence[str] = ()
    slices: int = 0
    chosen: Mapping[str, Sequence[int]] | None = None
    channels: int = 1
    axcodes: str | None = None

    def planned(
        self, task: Task, chosen: Mapping[str, Sequence[int]] | None, prints: Iterable[Fingerprint]
    ) -> PlanRecord:
        """Returns the record with the results of planning."""
        learned_from = [found for found in prints if found.section in LEARNED_FROM]
        axis = 2 if task.axcodes is None else AXIS_OF_LETTER[task.axcodes[-1]]
        return replace(
            self,
            voxels=sorted(found.voxels_sha256 for found in learned_from),
            slices=sum(found.shape[axis] for found in learned_from if found.section != "validation"),
            chosen=chosen,
            channels=task.channels,
            axcodes=task.axcodes,
        )

    def content(self) -> dict[str, Any]:
        """Returns the record as JSON content, which `load_record` reads back equal."""
        return {"format_version": FORMAT_VERSION, **asdict(self)}


def record_of(datalist: Mapping[str, Any], options: Mapping[str, Any], hashes: ContentHashes) -> PlanRecord:
    """Returns the record of a datalist from `load_datalist`, before planning."""
    sections = {
        name: [_described(entry, hashes) for entry in datalist.get(name, [])] for name in (*LEARNED_FROM, "test")
    }
    return PlanRecord(dict(options), {key: datalist[key] for key in DECLARED if key in datalist}, sections)


def load_record(path: str | Path) -> PlanRecord | None:
    """Returns a record, or None if there is no file.

    Raises:
        ValueError: when the file is damaged or has another version.
    """
    if not Path(path).is_file():
        return None
    content = read_json(path)
    name = Path(path).name
    shape = {"format_version": (int,), "options": (dict,), "declared": (dict,), "sections": (dict,), "voxels": (list,),
             "slices": (int,)}  # fmt: skip
    check_fields(content, shape, name, REPLAN)
    if content.pop("format_version") != FORMAT_VERSION or set(content) != {field.name for field in fields(PlanRecord)}:
        raise ValueError(f"Expected format version {FORMAT_VERSION} in {name}, found another one; {REPLAN}.")
    return PlanRecord(**content)


def check_same_plan(stored: PlanRecord, found: PlanRecord) -> None:
    """Raises ValueError when the options or the data differ from those of a plan; names what differs.

    Options that the task states (image size, intensity, neighbours) are checked by `check_options`.
    """
    for name in ("labelled_slices", "seed", "fold"):
        if name == "seed" and stored.options.get("labelled_slices") is None:
            continue  # no slices were drawn
        before, now = stored.options.get(name), found.options.get(name)
        if before != now:
            option = f"--{name.replace('_', '-')}"
            raise ValueError(f"Expected {option} {before} as this task was planned, found {now}; {REPLAN}.")
    differences = [
        f"`{key}` was {shown(stored.declared.get(key))} and is {shown(found.declared.get(key))}"
        for key in DECLARED
        if stored.declared.get(key) != found.declared.get(key)
    ]
    for section in LEARNED_FROM:
        differences += _section_differences(section, stored.sections.get(section, ()), found.sections[section])
    if differences:
        raise ValueError(f"Expected the datalist that this task was planned from, found {'; '.join(differences)}; "
                         f"{REPLAN}, or choose another --output-dir.")  # fmt: skip


def check_options(options: Mapping[str, Any], planned_with: Mapping[str, Any], task: Task, where: str) -> None:
    """Raises ValueError when an option contradicts a task; an option that the task was planned with never does.

    Args:
        options: options of this call.
        planned_with: options of the call that planned the task; empty if it was planned elsewhere.
        task: task in use.
        where: name of its file.
    """
    size = task.image_size[0] if task.image_size[0] == task.image_size[1] else list(task.image_size)
    for name, stated in (("image_size", size), ("intensity", task.intensity.mode), ("neighbours", task.neighbours)):
        value = options.get(name)
        if value is not None and value != stated and value != planned_with.get(name):
            raise ValueError(
                f"Expected {name} {stated} of {where}, found --{name.replace('_', '-')} {value}; leave the option out, "
                f"or {REPLAN}."
            )


def check_task_fits(task: Task, record: PlanRecord, where: str) -> None:
    """Raises ValueError when a task, edited or from elsewhere, does not fit the data of a record.

    Args:
        task: task to check.
        record: record of the data, after planning.
        where: name of the task's file.
    """
    declared = {str(value): str(name) for value, name in dict(record.declared.get("labels", {})).items()}
    stated = {str(label.value): label.name for label in task.labels}
    stated |= {} if task.ignore is None else {str(task.ignore): IGNORE}
    pairs: dict[str, tuple[Any, Any]] = {
        "label values": (sorted(declared), sorted(stated)),
        "channels": (record.channels, task.channels),
        "images": (_kind(record.axcodes), _kind(task.axcodes)),
    }
    if record.chosen is not None and record.axcodes and task.axcodes:
        pairs["slices towards"] = (record.axcodes[-1], task.axcodes[-1])  # the orientation in which slices were counted
    for name, (expected, found) in pairs.items():
        if expected != found:
            raise ValueError(
                f"Expected {name} {shown(expected)} in {where}, as the datalist and its images have it, found "
                f"{shown(found)}; give the task of this data, or {REPLAN}."
            )
    if declared != stated:
        logger.warning("%s names its labels %s, the datalist %s.", where, shown(stated), shown(declared))


def check_new_tests(datalist: Mapping[str, Any], found: PlanRecord, stored: PlanRecord, task: Task) -> None:
    """Reads the cases added to `test` since a task was planned, so that scoring does not refuse them hours later.

    Args:
        datalist: datalist from `load_datalist`.
        found: record of the datalist.
        stored: record of the plan.
        task: task of the plan.

    Raises:
        ValueError: when scoring would refuse a case, or the network learns from it.
    """
    known = [_identity(described) for described in stored.sections.get("test", ())]
    described = zip(datalist["test"], found.sections["test"], strict=True)
    new = [entry for entry, one in described if _identity(one) not in known]
    if not new:
        return
    for entry in new:
        if is_image_file(entry["image"]) != (stored.axcodes is None):
            raise ValueError(
                f"Expected {_kind(stored.axcodes)} as this task was planned from, found {Path(entry['image']).name} "
                f"in `test` (case {entry['case']}); make a datalist for each kind."
            )
    reading = Reading(task.label_values, stored.channels, names=task.label_names, ignore=task.ignore)
    for case in read_fingerprints({"test": new}, reading).values():
        if case.voxels_sha256 in stored.voxels:
            raise ValueError(
                f"Expected other images in `test` than those that are learned from, found the content of one in "
                f"{case.name} (case {case.case}); leave it out."
            )


def check_written(existing: Mapping[str, Any], datalist: Mapping[str, Any], name: str) -> None:
    """Raises ValueError when the datalist in the output folder names other cases or slices than the new one.

    Args:
        existing: content of the existing file.
        datalist: datalist to overwrite it.
        name: name of the file.
    """
    differences: list[str] = []
    for section in LEARNED_FROM:
        before, now = (
            [
                {"case": str(entry.get("case")), "slices": entry.get("slices"), DRAWN: entry.get(DRAWN)}
                for entry in content.get(section, [])
                if isinstance(entry, Mapping)
            ]
            for content in (existing, datalist)
        )
        differences += _section_differences(section, before, now)
    if differences:
        raise ValueError(f"Expected {name} as it was planned, found {'; '.join(differences)}; {REPLAN}.")


def in_recorded_order(datalist: Mapping[str, Any], found: PlanRecord, stored: PlanRecord) -> dict[str, Any]:
    """Returns the datalist with its entries in the order of the plan, in which training draws them.

    Args:
        datalist: datalist from `load_datalist`.
        found: record of the datalist.
        stored: record of the plan, with the same entries.
    """
    ordered = dict(datalist)
    for section in LEARNED_FROM:
        left = [_identity(described) for described in stored.sections.get(section, ())]
        position = {identity: index for index, identity in reversed(list(enumerate(left)))}
        keys = [position[_identity(described)] for described in found.sections[section]]
        ordered[section] = [datalist[section][index] for index in sorted(range(len(keys)), key=keys.__getitem__)]
    return ordered


def listed(names: Iterable[Any]) -> str:
    """Returns the first eight of some names, and the number of others."""
    names = [str(name) for name in names]
    others = len(names) - SHOWN_CASES
    return ", ".join(names[:SHOWN_CASES]) + (f" and {others} more" if others > 0 else "")


def _kind(axcodes: str | None) -> str:
    return "2D images" if axcodes is None else "volumes"


def _described(entry: Mapping[str, Any], hashes: ContentHashes) -> dict[str, Any]:
    described = {"case": entry["case"], **{key: hashes.of(entry[key]) for key in ("image", "label") if key in entry}}
    return described | {key: list(entry[key]) for key in ("slices", DRAWN) if key in entry}


def _identity(described: Mapping[str, Any]) -> tuple[Any, ...]:
    return (
        described["case"], described.get("image"), described.get("label"), tuple(described.get("slices") or ()),
        tuple(sorted(described.get(DRAWN) or ())),
    )  # fmt: skip


def _section_differences(
    section: str, before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Returns a description of the cases of a section that were added, removed or changed."""
    old, new = sorted(map(_identity, before), key=repr), sorted(map(_identity, now), key=repr)
    if old == new:
        return []
    old_cases, new_cases = ({identity[0] for identity in identities} for identities in (old, new))
    changed = {identity[0] for identity in (*old, *new) if old.count(identity) != new.count(identity)}
    parts = (
        ("without", old_cases - new_cases),
        ("with the new", new_cases - old_cases),
        ("with other files, slices or structures of", changed & old_cases & new_cases),
    )
    return [f"`{section}` {words} case {listed(sorted(cases))}" for words, cases in parts if cases]

"""Structures of a segmentation, chosen by name or code, as one label map.

DICOM SEG, RTSTRUCT and Slicer's `.seg.nrrd` hold structures with names and codes, which may overlap, instead of label
values. A `Wanted` structure is one that a label map gets a value for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tskd_monai.data.drawn_structures import IGNORE
from tskd_monai.files.json_files import shown

ON_TOP, MAY_BE_ABSENT = "^", "?"
MARKED = re.compile(rf"(.*?)([{re.escape(ON_TOP + MAY_BE_ABSENT)}]*)", re.DOTALL)
STRUCTURES = "structures"
"""Key of a datalist: label -> its structures in the files."""

LISTED = 8


@dataclass(frozen=True)
class Structure:
    """A structure in a file.

    Attributes:
        name: its name there.
        codes: its codes, such as `SCT:10200004`; of one of a pair also `SCT:64033007+SCT:24028007`.
        mask: function that reads its voxels, bool on the grid of the image.
    """

    name: str
    codes: tuple[str, ...]
    mask: Callable[[], np.ndarray]


@dataclass(frozen=True)
class Wanted:
    """A label and the structures that are it.

    Attributes:
        label: name of the label.
        value: its value in a label map.
        names: names or codes of the structure, of which a file has one.
        on_top: whether its voxels keep this label where it overlaps another structure.
        may_be_absent: whether a file may lack the structure, which is then taken as not there in the patient.
    """

    label: str
    value: int
    names: tuple[str, ...]
    on_top: bool = False
    may_be_absent: bool = False


def wanted_of_datalist(labels: Mapping[str, str], structures: Any, path: object) -> list[Wanted]:
    """Returns the structures of a datalist's labels.

    Args:
        labels: value -> name, background included.
        structures: `structures` of the datalist: label -> name or code, a list of them, or an object with `names`,
            `on_top` and `may_be_absent`; None: structures have the names of the labels.
        path: path of the datalist in messages.

    Raises:
        ValueError: if `structures` is malformed or names another label.
    """
    given = {} if structures is None else structures
    foreground = {name: int(value) for value, name in labels.items() if int(value)}
    if not isinstance(given, Mapping) or not set(given) <= set(foreground):
        raise ValueError(
            f"{path}: expected `{STRUCTURES}` with names among {', '.join(foreground)}, found {shown(given)}."
        )
    return [_wanted(name, value, given.get(name, name), path) for name, value in foreground.items()]


def _wanted(label: str, value: int, given: Any, path: object) -> Wanted:
    record = given if isinstance(given, Mapping) else {"names": given}
    names = record.get("names", label)
    names = [names] if isinstance(names, str) else names
    flags = {key: record.get(key, label == IGNORE) for key in ("on_top", "may_be_absent")}
    known = set(record) <= {"names", *flags} and all(isinstance(flag, bool) for flag in flags.values())
    if not known or not isinstance(names, list) or not names or not all(n and isinstance(n, str) for n in names):
        raise ValueError(
            f"{path}: expected a name, a list of names, or an object with names, on_top and may_be_absent as "
            f"`{STRUCTURES}` of {label}, found {shown(given)}."
        )
    return Wanted(label, value, tuple(names), **flags)


def parsed_structures(text: str) -> tuple[dict[str, str], dict[str, Any]]:
    """Returns `labels` and `structures` of a datalist from `--labels`.

    `liver,spleen` are structures of these names, with the values 1 and 2; `liver=3` has the value 3, and
    `liver=Leber|SCT:10200004` is a structure of one of these names or codes. After the name or what follows `=`, `?`
    accepts files without the structure, and `^` gives it the voxels that it shares with another.

    Raises:
        ValueError: if a part has no name, or a label, value or structure appears twice.
    """
    labels, structures = {"0": "background"}, {}
    for number, part in enumerate(text.split(","), start=1):
        match = MARKED.fullmatch(part.strip())
        assert match is not None
        name, sign, given = (word.strip() for word in match[1].partition("="))
        value = str(int(given)) if given.isdecimal() else str(number)
        names = [name] if not sign or given.isdecimal() else [word.strip() for word in given.split("|")]
        if not name or not all(names) or value in labels or name in structures:
            raise ValueError(
                "Expected --labels as names of structures, each with a value of its own, such as liver,spleen or "
                f"liver=1,spleen=4 or liver=Leber|SCT:10200004, found {part.strip()!r}."
            )
        labels[value] = name
        structures[name] = {"names": names, "on_top": ON_TOP in match[2], "may_be_absent": MAY_BE_ABSENT in match[2]}
    return labels, structures


def same_name(first: str, second: str) -> bool:
    """Returns whether two names are equal, regardless of case, blanks, `_` and `-`."""
    return _plain(first) == _plain(second)


def _plain(name: str) -> str:
    return " ".join(re.sub(r"[_\-\s]+", " ", name).casefold().split())


def chosen(structures: Sequence[Structure], wanted: Wanted, title: str) -> Structure | None:
    """Returns the structure of a file that is a label; None if it may be absent and is.

    Args:
        structures: structures of the file.
        wanted: label.
        title: name of the file in messages.

    Raises:
        ValueError: if the file has no such structure, or several.
    """
    found = [one for one in structures if any(name in one.codes or same_name(name, one.name) for name in wanted.names)]
    if len(found) > 1:
        raise ValueError(
            f"Expected one structure that is {wanted.label} in {title}, found {listed(found)}; choose one by its name, "
            f"as in {wanted.label}={found[0].name}."
        )
    if not found and not wanted.may_be_absent:
        raise ValueError(
            f"Expected a structure {' or '.join(wanted.names)} in {title}, found {listed(structures) or 'none'}; name "
            f"it, as in --labels {wanted.label}=NAME (or `{STRUCTURES}` of a datalist), or write {wanted.label}? if "
            "a patient may lack it."
        )
    return found[0] if found else None


def listed(structures: Sequence[Structure]) -> str:
    """Returns the names of the first eight structures, and the number of others."""
    more = f" and {len(structures) - LISTED} more" if len(structures) > LISTED else ""
    return ", ".join(one.name for one in structures[:LISTED]) + more


def label_map(
    structures: Sequence[Structure], wanted: Sequence[Wanted], shape: tuple[int, ...], title: str
) -> np.ndarray:
    """Returns the label map of the wanted structures, uint8 or uint16 of the shape.

    Where structures overlap, one that is `on_top` is kept, of two of these the later one.

    Args:
        structures: structures of the file.
        wanted: labels.
        shape: voxels along the axes of the image.
        title: name of the file in messages.

    Raises:
        ValueError: if a structure is missing, or two overlap and neither is on top.
    """
    pairs = [(label, structure) for label in wanted if (structure := chosen(structures, label, title))]
    dtype = np.uint8 if max(label.value for label in wanted) <= np.iinfo(np.uint8).max else np.uint16
    labels = np.zeros(shape, dtype)
    names = {label.value: label.label for label in wanted}
    for label, structure in sorted(pairs, key=lambda pair: pair[0].on_top):
        mask = structure.mask()
        shared = labels[mask]
        overlap = int(np.count_nonzero(shared))
        if overlap and not label.on_top:
            other = names[int(shared[shared > 0][0])]
            raise ValueError(
                f"Expected structures that do not overlap in {title}, found {label.label} and {other} in {overlap} "
                f"voxels; say which one these voxels are, as in --labels {other},{label.label}{ON_TOP} (`on_top` in "
                f"`{STRUCTURES}` of a datalist)."
            )
        labels[mask] = label.value
    return labels

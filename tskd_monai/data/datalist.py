"""Decathlon-style datalists: images, their patients, and their sections."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tskd_monai.data.drawn_structures import DRAWN, declared_names, undrawn_classes
from tskd_monai.data.output_names import file_stem
from tskd_monai.files.json_files import is_a, is_there, read_json, shown
from tskd_monai.files.option_path import text_path

SECTIONS = ("training", "validation", "test", "unlabeled")
LABEL_KEYS = ("label", "second_reader")
REFUSED = "refused"
"""Key of an entry whose label could not be converted, with the reason."""

GOLDEN_RATIO = 0.6180339887498949

Refuse = Callable[[str, Any, Exception], None]
"""Function of a section, an entry of it, and the error of the entry."""


def load_datalist(path: str | Path | None, fold: int | None = None, refuse: Refuse | None = None) -> dict[str, Any]:
    """Returns a datalist with absolute paths, checked.

    Args:
        path: JSON file with `labels` and the sections `training`, `validation`, `test` and `unlabeled`, each a list of
            `{"image", "label", "case"}`, optionally with `second_reader`, another label of the image, and with
            `structures`, the names of the structures that were drawn, if not all were; paths are relative to the file's
            folder. Labels in `unlabeled` are ignored.
        fold: index of the cross-validation fold in `folds`, which lists the cases of each section.
        refuse: called with each entry that has an error, which is then left out; None: the first error is raised.

    Raises:
        FileNotFoundError: when the datalist or a file that it names is missing.
        ValueError: when an entry is malformed, an image is in two sections, a patient is in two (except `training` and
            `unlabeled`), two patients share a label, or the fold does not exist; names the file and the section.
    """
    if path is None:
        raise ValueError("Expected --datalist with the path of a Decathlon-style JSON file.")
    path = text_path(path, "datalist")
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("training"), list):
        raise ValueError(f"{path}: expected an object with a list `training`{_listless_advice(content)}.")
    folder = Path(path).resolve().parent
    datalist = {**content, "folder": str(folder)}
    refused: list[Any] = []

    def leave_out(section: str, entry: Any, error: Exception) -> None:
        if refuse is None:
            raise error
        refused.append(entry)
        refuse(section, entry, error)

    for section in SECTIONS:
        entries = content.get(section, [])
        if not isinstance(entries, list):
            raise ValueError(f"{path}: expected a list in `{section}`, found {type(entries).__name__}.")
        check = partial(_check_entry, folder=folder, path=path, labels=content.get("labels"))
        datalist[section] = _accepted(entries, section, check, leave_out)
    if fold is not None:
        datalist = _select_fold(datalist, fold, path, {str(e.get("case")) for e in refused if isinstance(e, Mapping)})
    for check in (
        partial(_check_disjoint, owners={}, path=path),
        partial(_check_distinct_files, images={}, labels={}, path=path),
    ):
        for section in SECTIONS:
            datalist[section] = _accepted(datalist[section], section, check, leave_out)
    return datalist


def load_section(path: str | Path | None, section: str, fold: int | None = None) -> list[dict[str, Any]]:
    """Returns the entries of one section, at least one.

    Raises:
        ValueError: when the section is empty; see also `load_datalist`.
    """
    if section not in SECTIONS:
        raise ValueError(f"Expected a section among {SECTIONS}, found {section}.")
    entries = load_datalist(path, fold)[section]
    if not entries:
        raise ValueError(f"{path}: expected entries in `{section}`, found none.")
    return entries


def transfer_images(path: str | Path | None, fold: int | None = None) -> list[dict[str, Any]]:
    """Returns the real images of the transfer set: all training and unlabelled images, without labels."""
    datalist = load_datalist(path, fold)
    entries = datalist["training"] + datalist["unlabeled"]
    return [{"image": entry["image"], "case": entry["case"]} for entry in entries]


def labelled_subset(slice_counts: Mapping[str, int], budget: int, seed: int) -> dict[str, list[int]]:
    """Returns the slices of each image that are labelled under a budget, chosen without reading labels.

    Images are visited in an order drawn from the seed, and each gives one slice before any gives a second. Within an
    image, slices follow a golden-ratio sequence from an offset drawn from the seed, so that any number of them is
    spread evenly over the volume. Budgets are nested: the 10 slices of one seed are among its 25.

    Args:
        slice_counts: number of slices of each image, by the names of `case_names`.
        budget: total number of labelled slices.
        seed: seed of the draw.

    Raises:
        ValueError: when the budget is not between 1 and the number of slices, or the seed is negative.
    """
    import numpy as np

    if seed < 0:
        raise ValueError(f"Expected --seed of 0 or more, found {seed}.")

    total = sum(slice_counts.values())
    if not 1 <= budget <= total:
        raise ValueError(f"Expected a budget of 1 to {total} labelled slices, found {budget}.")
    generator = np.random.default_rng(seed)
    cases = [str(case) for case in generator.permutation(sorted(slice_counts))]
    orders = {case: _spread(slice_counts[case], generator.random()) for case in cases}
    rounds = max(slice_counts.values())
    draws = [(case, orders[case][turn]) for turn in range(rounds) for case in cases if turn < slice_counts[case]]
    chosen: dict[str, list[int]] = {}
    for case, index in draws[:budget]:
        chosen.setdefault(case, []).append(index)
    return {case: sorted(indices) for case, indices in sorted(chosen.items())}


def restrict_labels(datalist: Mapping[str, Any], chosen: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Returns the datalist in which only the chosen training slices are labelled.

    A training entry gets `slices`, the indices of its labelled slices along the task's slice axis; an image without
    labelled slices moves to `unlabeled`.

    Args:
        datalist: datalist from `load_datalist`.
        chosen: slices of each image, from `labelled_subset`.
    """
    named = list(zip(case_names(datalist["training"]), datalist["training"], strict=True))
    training = [{**entry, "slices": list(chosen[name])} for name, entry in named if name in chosen]
    bare = [{"image": entry["image"], "case": entry["case"]} for name, entry in named if name not in chosen]
    return {**datalist, "training": training, "unlabeled": list(datalist.get("unlabeled", [])) + bare}


def case_names(entries: Sequence[Mapping[str, str]]) -> list[str]:
    """Returns the name of each entry of a section: its case, and also the file name if a case has several images."""
    images = Counter(entry["case"] for entry in entries)
    return [
        entry["case"] if images[entry["case"]] == 1 else f"{entry['case']}_{file_stem(Path(entry['image']))}"
        for entry in entries
    ]


def _spread(count: int, offset: float) -> list[int]:
    """Returns a permutation of `range(count)` in which every prefix is evenly spread."""
    order = dict.fromkeys(int((offset + turn * GOLDEN_RATIO) % 1 * count) for turn in range(8 * count))
    return list(order) + [index for index in range(count) if index not in order]


def _accepted(
    entries: Iterable[Any], section: str, check: Callable[[Any, str], dict[str, Any]], refuse: Refuse
) -> list[dict[str, Any]]:
    """Returns the entries that pass a check, as the check returns them."""
    kept = []
    for entry in entries:
        try:
            kept.append(check(entry, section))
        except (ValueError, FileNotFoundError) as error:
            refuse(section, entry, error)
    return kept


def _check_entry(entry: Any, section: str, folder: Path, path: str | Path, labels: Any) -> dict[str, Any]:
    needed = {"image", "case"} if section == "unlabeled" else {"image", "label", "case"}
    if not isinstance(entry, dict) or not needed <= set(entry):
        advice = _entry_advice(entry, section)
        raise ValueError(
            f"{path}: expected an entry with {sorted(needed)} in `{section}`, found {shown(entry)}; {advice}."
        )
    if REFUSED in entry:
        raise ValueError(str(entry[REFUSED]))
    clashes = [key for key in entry if key.startswith(("image_", "label_"))]
    if clashes:
        raise ValueError(
            f"{path}: `{section}` has the key {clashes[0]}; MONAI reserves names that begin so. Rename it."
        )
    checked = {**entry, "case": _check_case(entry["case"], section, path)}
    if section == "unlabeled":
        checked = {key: value for key, value in checked.items() if key not in (*LABEL_KEYS, DRAWN)}
    if DRAWN in checked and isinstance(labels, Mapping):  # those of a datalist without labels are checked when read
        undrawn_classes(checked[DRAWN], declared_names(labels), f"{path}: `{section}` case {checked['case']}")
    for key in sorted((needed | set(LABEL_KEYS) & set(checked)) - {"case"}):
        if not entry[key] or not isinstance(entry[key], str):
            raise ValueError(f"{path}: expected a path as `{key}` in `{section}`, found {shown(entry[key])}.")
        checked[key] = str(folder / entry[key])
        if not is_there(folder / entry[key]):
            raise FileNotFoundError(
                f"{path}: expected {entry[key]} of `{section}` case {entry['case']}, found no file."
            )
    slices = entry.get("slices", [])
    if not isinstance(slices, list) or not all(is_a(index, int) and index >= 0 for index in slices):
        raise ValueError(f"{path}: expected slice numbers from 0 as `slices` in `{section}`, found {shown(slices)}.")
    return checked


def _listless_advice(content: Any) -> str:
    """Returns advice for a dataset.json of nnU-Net, which lists no files; empty for other content."""
    if not isinstance(content, Mapping) or "numTraining" not in content:
        return ""
    return (
        ', found the dataset.json of nnU-Net, which lists no files; list them as {"image", "label", "case"} in '
        "`training`, `validation` and `test`, and `labels` from value to name"
    )


def _entry_advice(entry: Any, section: str) -> str:
    """Returns advice for an incomplete entry, as in the dataset.json of a Decathlon download."""
    if isinstance(entry, str):
        return 'list images that have no label as {"image", "case"} in `unlabeled`'
    if isinstance(entry, Mapping) and "case" not in entry:
        return "name the patient of each image as `case` (tskd datasets does so for a Decathlon download)"
    return f"add what is missing{'' if section == 'unlabeled' else ', or move an image without a label to `unlabeled`'}"


def _check_case(case: Any, section: str, path: str | Path) -> str:
    """Returns a case as text; outputs are named after it."""
    if not is_a(case, str, int) or not str(case) or not str(case).isprintable():
        raise ValueError(
            f"{path}: expected a printable text or a whole number as `case` in `{section}`, found {shown(case)}."
        )
    return str(case)


def _check_disjoint(entry: dict[str, Any], section: str, owners: dict[str, str], path: str | Path) -> dict[str, Any]:
    """Returns an entry; raises ValueError when its case is in another section too, of which one is held out."""
    owner = owners.setdefault(entry["case"], section)
    if owner != section and {owner, section} != {SECTIONS[0], SECTIONS[3]}:
        raise ValueError(
            f"{path}: expected sections disjoint by `case`, found case {entry['case']} in both `{owner}` and "
            f"`{section}`. A patient belongs to one section."
        )
    return entry


def _check_distinct_files(
    entry: dict[str, Any],
    section: str,
    images: dict[tuple[int, int], tuple[str, Mapping[str, Any]]],
    labels: dict[tuple[int, int], Mapping[str, Any]],
    path: str | Path,
) -> dict[str, Any]:
    """Returns an entry; raises ValueError for an image that is listed twice, or a label of two patients.

    Links are resolved. Copies are detected only by reading them, as planning does.
    """
    first_section, first = images.setdefault(_identity(entry["image"]), (section, entry))
    if first is not entry:
        raise ValueError(
            f"{path}: expected each image once, found {Path(first['image']).name} of `{first_section}` case "
            f"{first['case']} again in `{section}` case {entry['case']}; leave one of them out."
        )
    owner = labels.setdefault(_identity(entry["label"]), entry) if "label" in entry else entry
    if owner["case"] != entry["case"]:
        raise ValueError(
            f"{path}: expected a label of each case's own, found {Path(entry['label']).name} for the cases "
            f"{owner['case']} and {entry['case']}; pair each image with its label."
        )
    return entry


def _identity(path: str) -> tuple[int, int]:
    """Returns device and inode of a file or folder, equal for all paths to it."""
    state = Path(path).stat()
    return state.st_dev, state.st_ino


def _select_fold(
    datalist: Mapping[str, Any], fold: int, path: str | Path, refused: Iterable[str] = ()
) -> dict[str, Any]:
    """Returns the datalist with the sections of a fold; refused cases are skipped."""
    folds = datalist.get("folds", [])
    if not isinstance(folds, list):
        raise ValueError(f"{path}: expected a list in `folds`, found {type(folds).__name__}.")
    if not folds:
        raise ValueError(f"{path}: expected `folds` for --fold {fold}, found none; leave --fold out.")
    if not 0 <= fold < len(folds):
        advice = "" if folds else "; leave out --fold, as there are no `folds`"
        raise ValueError(f"{path}: expected a fold below {len(folds)}, found {fold}{advice}.")
    if not isinstance(folds[fold], dict):
        raise ValueError(f"{path}: expected an object in `folds[{fold}]`, found {type(folds[fold]).__name__}.")
    entries: dict[str, list[Any]] = {}
    for entry in (entry for section in SECTIONS[:3] for entry in datalist[section]):
        entries.setdefault(entry["case"], []).append(entry)
    selected: dict[str, Any] = dict(datalist)
    for section in SECTIONS[:3]:
        named = folds[fold].get(section, [])
        if not isinstance(named, list):
            raise ValueError(f"{path}: expected a list in `{section}` of fold {fold}, found {type(named).__name__}.")
        cases = [str(case) for case in named if str(case) in entries or str(case) not in refused]
        missing = [case for case in cases if case not in entries]
        if missing:
            raise ValueError(f"{path}: fold {fold} names case {missing[0]}, which no section has.")
        selected[section] = [entry for case in cases for entry in entries[case]]
    return selected

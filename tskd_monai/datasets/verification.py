"""Checks of a prepared dataset, from its own files only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tqdm import tqdm

from tskd_monai.data.datalist import SECTIONS, load_datalist
from tskd_monai.datasets.inspection import inspect_entry, repeated_images
from tskd_monai.datasets.preparation import RECORD, count_sections
from tskd_monai.files.checksum import file_sha256
from tskd_monai.files.json_files import read_json

SHOWN_FILES = 5


def verify_dataset(folder: str | Path) -> dict[str, Any]:
    """Returns the datalist of a prepared folder after checking everything it names.

    The checks: every file exists and is byte for byte as written; sections are disjoint by patient; sizes, geometry and
    label values are valid; no image occurs twice; the counts match those in the datalist.

    Raises:
        FileNotFoundError: if the folder was not prepared, or a file is missing.
        ValueError: if a check fails; names the file.
    """
    folder = Path(folder)
    record = read_json(folder / RECORD)
    datalist = read_json(folder / "datalist.json")
    load_datalist(folder / "datalist.json")
    _check_unchanged(folder, record.get("files", {}))
    entries = [entry for section in SECTIONS for entry in datalist.get(section, [])]
    labels = {int(value): name for value, name in datalist["labels"].items()}
    inspections = [
        inspect_entry(entry, folder, labels, datalist["channels"], {})
        for entry in tqdm(entries, desc="Verifying", unit="image")
    ]
    repeats = repeated_images(entries, inspections)
    if repeats:
        entry, original = repeats[0]
        raise ValueError(
            f"{folder / 'datalist.json'}: expected each image once, found the pixels of {original['image']} again in "
            f"{entry['image']}; prepare the dataset again."
        )
    found = count_sections(datalist)
    if found != datalist["counts"]:
        raise ValueError(
            f"{folder / 'datalist.json'}: expected {datalist['counts']} as it states, found {found}; entries were "
            "added or removed by hand: correct `counts`, or prepare the dataset again."
        )
    return dict(datalist)


def _check_unchanged(folder: Path, files: dict[str, str]) -> None:
    if not files:
        raise ValueError(
            f"{folder / RECORD}: expected the sha256 of every file, found none; the preparation was not finished, run "
            "it again."
        )
    missing = [path for path in files if not (folder / path).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{folder}: expected {len(files)} files, found {len(missing)} missing, the first {missing[0]}; prepare the "
            "dataset again, existing files are kept."
        )
    changed = [path for path, sha256 in files.items() if file_sha256(folder / path) != sha256]
    if changed:
        shown = ", ".join(changed[:SHOWN_FILES])
        raise ValueError(
            f"{folder}: expected files as they were written, found {len(changed)} changed ({shown}); delete them and "
            "prepare the dataset again."
        )

"""The argument DATA: a datalist, or a folder, whose datalist is then written into the private folder."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from tskd_monai.data.datalist import LABEL_KEYS, SECTIONS
from tskd_monai.datasets.structure_labels import with_label_maps
from tskd_monai.datasets.user_folder import is_datalist, user_datalist
from tskd_monai.files.json_files import read_json, write_json
from tskd_monai.files.private_files import private_file

logger = logging.getLogger(__name__)

FOUND = "data.json"


def dataset_name(data: Path) -> str:
    """Returns the name of the folder of a user's data, after which output folders are named."""
    folder = data.resolve()
    return folder.parent.name if folder.is_file() else folder.name


def datalist_of(data: Path, output_dir: Path, labels: str | None = None, seed: int = 0, lenient: bool = False) -> Path:
    """Returns the datalist of a user's data, with its sections.

    Args:
        data: a datalist, or a folder in one of the layouts of `datasets.user_folder`.
        output_dir: output folder; the datalist of a folder is written to `private/data.json`, as file names may name
            patients, and so is that of labels which are structures (`datasets.structure_labels`).
        labels: names of the label values of a folder, or of its structures.
        seed: seed of the draw of a folder's sections.
        lenient: see `user_datalist`.

    Raises:
        FileNotFoundError: if `data` does not exist.
        ValueError: if it is neither; see `user_datalist`.
    """
    if is_datalist(data):
        if labels is not None:
            raise ValueError(f"Expected --labels with a folder only, found a datalist; its `labels` name them: {data}.")
        return _with_label_maps(data.resolve(), output_dir, lenient)
    datalist = user_datalist(data, labels, seed, lenient=lenient)
    logger.info(datalist["description"])
    return _written(with_label_maps(datalist, output_dir, data, lenient), output_dir)


def labelled_datalist(data: Path, output_dir: Path, labels: str | None = None) -> Path:
    """Returns the datalist of a user's data, with every labelled image of a folder in `test`; see `datalist_of`."""
    if is_datalist(data):
        return datalist_of(data, output_dir, labels)
    datalist = with_label_maps(user_datalist(data, labels, fewest=1), output_dir, data)
    datalist["test"] = [entry for section in SECTIONS[:3] for entry in datalist[section]]
    return _written({**datalist, "description": "", "training": [], "validation": []}, output_dir)


def _with_label_maps(path: Path, output_dir: Path, lenient: bool) -> Path:
    """Returns a datalist, or its copy with label maps if labels are DICOM SEG, RTSTRUCT or segmentations of Slicer."""
    content = read_json(path)
    lists = [content.get(section, []) for section in SECTIONS] if isinstance(content, dict) else []
    well_formed = lists and all(isinstance(entries, list) for entries in lists) and content.get("labels")
    if not well_formed or not all(isinstance(entry, dict) for entries in lists for entry in entries):
        return path  # reading it states what is wrong
    absolute = {**content, **{section: [_absolute(entry, path.parent) for entry in content.get(section, [])]
                              for section in SECTIONS if section in content}}  # fmt: skip
    converted = with_label_maps(absolute, output_dir, path, lenient)
    return path if converted is absolute else _written(converted, output_dir)


def _absolute(entry: dict[str, Any], folder: Path) -> dict[str, Any]:
    keys = [key for key in ("image", *LABEL_KEYS) if isinstance(entry.get(key), str) and entry[key]]
    return {**entry, **{key: str(folder / entry[key]) for key in keys}}


def _written(content: dict[str, object], output_dir: Path) -> Path:
    path = private_file(output_dir, FOUND)
    write_json(path, content)
    return path

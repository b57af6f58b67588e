"""The argument DATA: a datalist, or a folder, whose datalist is then written into the private folder."""

from __future__ import annotations

import logging
from pathlib import Path

from tskd_monai.data.datalist import SECTIONS
from tskd_monai.datasets.user_folder import is_datalist, user_datalist
from tskd_monai.files.json_files import write_json
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
            patients.
        labels: names of the label values of a folder.
        seed: seed of the draw of a folder's sections.
        lenient: see `user_datalist`.

    Raises:
        FileNotFoundError: if `data` does not exist.
        ValueError: if it is neither; see `user_datalist`.
    """
    if is_datalist(data):
        if labels is not None:
            raise ValueError(f"Expected --labels with a folder only, found a datalist; its `labels` name them: {data}.")
        return data.resolve()
    datalist = user_datalist(data, labels, seed, lenient=lenient)
    logger.info(datalist["description"])
    return _written(datalist, output_dir)


def labelled_datalist(data: Path, output_dir: Path, labels: str | None = None) -> Path:
    """Returns the datalist of a user's data, with every labelled image of a folder in `test`; see `datalist_of`."""
    if is_datalist(data):
        return datalist_of(data, output_dir, labels)
    datalist = user_datalist(data, labels, fewest=1)
    datalist["test"] = [entry for section in SECTIONS[:3] for entry in datalist[section]]
    return _written({**datalist, "description": "", "training": [], "validation": []}, output_dir)


def _written(content: dict[str, object], output_dir: Path) -> Path:
    path = private_file(output_dir, FOUND)
    write_json(path, content)
    return path

"""Contents of an output folder: whether every file can be read, and its content without times."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from tskd_monai.files.json_files import read_json
from tskd_monai.training.checkpoint import load_checkpoint

TIMES = ("seconds", "seconds_per_epoch", "finished", "versions")
"""Entries of records that differ between equal runs."""


def finished_files(folder: Path) -> list[Path]:
    """Returns the finished files of a folder, sorted; hidden ones are temporary."""
    return [path for path in _files(folder) if not _is_temporary(path.relative_to(folder))]


def temporary_files(folder: Path) -> list[Path]:
    """Returns the files that were being written, sorted."""
    return [path for path in _files(folder) if _is_temporary(path.relative_to(folder))]


def unreadable_files(folder: Path) -> dict[str, str]:
    """Returns the finished files that cannot be read, with the reason."""
    wrong: dict[str, str] = {}
    for path in finished_files(folder):
        try:
            _content(path)
        except Exception as error:  # whatever a reader raises on a damaged file
            wrong[str(path.relative_to(folder))] = f"{type(error).__name__}: {error}"
    return wrong


def digests(folder: Path) -> dict[str, str]:
    """Returns a hash of the content of each finished file: tensors bit for bit, times left out."""
    found = {}
    for path in finished_files(folder):
        digest = hashlib.sha256()
        for part in _parts(_content(path), str(folder)):
            digest.update(part)
        found[str(path.relative_to(folder))] = digest.hexdigest()
    return found


def saved_epoch(folder: Path) -> int:
    """Returns the last epoch in the checkpoint of a training run, 0 without one."""
    path = folder / "last.pt"
    return int(load_checkpoint(path)["progress"]["epoch"]) if path.is_file() else 0


def epochs_in_history(folder: Path) -> int:
    """Returns the number of epochs in the training curve."""
    path = folder / "history.jsonl"
    return len(path.read_text().splitlines()) if path.is_file() else 0


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _is_temporary(name: Path) -> bool:
    return any(part.startswith(".") for part in name.parts)


def _content(path: Path) -> Any:
    name = "".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix
    return READERS.get(name, Path.read_bytes)(path)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as content:
        return dict(content)


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def _lines(path: Path) -> list[Any]:
    # A log to which lines are appended: a line cut short by a kill does not count, as its reader knows.
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


def _volume(path: Path) -> dict[str, np.ndarray]:
    with gzip.open(path) as file:
        file.read()  # to the checksum at the end
    image = nib.load(path)
    return {"voxels": np.asarray(image.dataobj), "affine": image.affine}


def _table(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


READERS: Mapping[str, Callable[[Path], Any]] = {
    ".pt": load_checkpoint,
    ".safetensors": load_file,
    ".npz": _arrays,
    ".png": _pixels,
    ".json": read_json,
    ".jsonl": _lines,
    ".nii.gz": _volume,
    ".csv": _table,
}


def _parts(content: Any, folder: str) -> Iterator[bytes]:
    """Yields the leaves of nested content as bytes; the output folder's own path is left out."""
    if isinstance(content, Mapping):
        for key in sorted(content, key=str):
            if key not in TIMES:
                yield str(key).encode()
                yield from _parts(content[key], folder)
    elif isinstance(content, (list, tuple)):
        for item in content:
            yield from _parts(item, folder)
    elif isinstance(content, torch.Tensor):
        yield from _parts(content.detach().reshape(-1).view(torch.uint8).numpy(), folder)
    elif isinstance(content, np.ndarray):
        yield str((content.dtype, content.shape)).encode()
        yield np.ascontiguousarray(content).tobytes()
    else:
        yield content if isinstance(content, bytes) else repr(content).replace(folder, "").encode()

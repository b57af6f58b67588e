"""Format of a transfer set on disk: images without masks, and a Decathlon-style list with the origin of each.

```
transfer_set/
  images/000000.png, ...           8-bit grey or RGB; 0..255 is the task's normalised [0, 1]; rows are rows of the array
  labels/000000.png, ...           8-bit class indices, where the model was conditioned on label maps
  transfer_set.json                the fields of SETTINGS, images in "unlabeled", each with the fields of ENTRY;
                                   written when the set is complete
  transfer_set.progress-0.jsonl    during sampling, for each process: the settings, then a line per finished image
```

Gates add "teacher_confidence", "nearest_training" and "reasons" to each image, move those with a reason to "rejected",
and write the counts to "gates" and the verdict on the whole set to "verdict"; `tskd_monai.data.gates_file` defines the
file of their measurements.

A set whose "condition" is of kind "variation" is a derivative of patients' images. Each of its images has the origin
"variation" and, in "condition", the strength and the index of its source among the slices of the datalist, which names
no patient. Such a set stays where the patients' images are: `refuse_variations` keeps it out of exports.

This module defines the format and reads it; `tskd_monai.synthesis.transfer_set_writer` writes it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tskd_monai.data.verdict import Verdict, read_verdict
from tskd_monai.files.checksum import file_sha256
from tskd_monai.files.json_files import Fields, check_fields, is_there, parse_json, read_json

logger = logging.getLogger(__name__)

FORMAT_VERSION = 2
MANIFEST_NAME = "transfer_set.json"
PROGRESS_PATTERN = "transfer_set.progress-*.jsonl"

SETTINGS: Fields = {
    "format_version": (int,),
    "task_hash": (str,),
    "checkpoint_sha256": (str,),
    "image_size": (list,),
    "channels": (int,),
    "pixdim": (list, type(None)),
    "sampler": (str,),
    "num_inference_steps": (int,),
    "batch_size": (int,),
    "base_seed": (int,),
    "condition": (dict,),
    "unlabeled": (list,),
}
ENTRY: Fields = {
    "image": (str,),
    "case": (str,),
    "origin": (str,),
    "seed": (int,),
    "sha256": (str,),
    "condition": (dict, type(None)),
}
MASKED_ENTRY: Fields = {"label": (str,), "mask_sha256": (str,)}
ADVICE = "sample the transfer set again"
SYNTHETIC, VARIATION = "synthetic", "variation"
SHA256 = re.compile(r"[0-9a-f]{64}")


def image_name(index: int) -> str:
    """Returns the path of image `index` within the transfer set's folder."""
    return f"images/{index:06d}.png"


def label_name(index: int) -> str:
    """Returns the path of the label map of image `index` within the transfer set's folder."""
    return f"labels/{index:06d}.png"


def progress_name(rank: int) -> str:
    """Returns the name of the progress file of a process."""
    return PROGRESS_PATTERN.replace("*", str(rank))


def progress_files(folder: Path) -> list[Path]:
    """Returns the progress files of a transfer set whose sampling is incomplete."""
    return sorted(folder.glob(PROGRESS_PATTERN))


def origin_of(settings: Mapping[str, Any]) -> str:
    """Returns the origin of the images of a transfer set: `variation` of patients' images, or `synthetic`.

    Args:
        settings: content of its manifest, or first line of a progress file.
    """
    condition = settings.get("condition")
    return VARIATION if isinstance(condition, Mapping) and condition.get("kind") == VARIATION else SYNTHETIC


def refuse_variations(folder: Path) -> None:
    """Raises ValueError when a folder that is to leave the site contains variations of patients' images.

    Args:
        folder: searched with its subfolders; a transfer set whose sampling is incomplete counts too.
    """
    for pattern in (MANIFEST_NAME, PROGRESS_PATTERN):
        for path in sorted(folder.rglob(pattern)):
            if origin_of(_settings_of(path)) == VARIATION:
                raise ValueError(
                    f"Expected no images of patients in {folder}, found variations of patients' slices, which are "
                    f"derivatives of them, in {path.parent}; remove that folder from what is exported."
                )


def _settings_of(path: Path) -> dict[str, Any]:
    """Returns the settings of a manifest or of a progress file; {} of a progress file without a whole first line."""
    if path.name == MANIFEST_NAME:
        content = read_json(path)
    else:
        first, end, _ = path.read_text(encoding="utf-8").partition("\n")
        content = parse_json(first) if end else {}
    if not isinstance(content, dict):
        raise ValueError(
            f"Expected the settings of a transfer set in {path}, found {type(content).__name__}; {ADVICE}."
        )
    return content


def set_verdict(path: str | Path) -> Verdict | None:
    """Returns the verdict of the gates on a transfer set; None if no gate, or that of an earlier version, has run.

    Args:
        path: path of `transfer_set.json` or of its folder.

    Raises:
        FileNotFoundError, ValueError: when the list is missing or malformed.
    """
    path = _manifest(path)
    content = read_json(path)
    check_fields(content, {"format_version": (int,)}, str(path), ADVICE)
    return read_verdict(content, str(path))


def used_transfer_set(path: str | Path | None) -> str | Path | None:
    """Returns the transfer set itself, or None if its gates failed it and their `use_failed` was not set.

    Args:
        path: path of `transfer_set.json` or of its folder; None: no transfer set.

    Raises:
        FileNotFoundError, ValueError: see `set_verdict`.
    """
    verdict = None if path is None else set_verdict(path)
    return path if verdict is None or verdict.used else None


def load_used_images(path: str | Path | None, task_hash: str) -> list[dict[str, Any]]:
    """Returns the images of a transfer set that a student learns from; none of a set that failed its gates.

    Args:
        path: path of `transfer_set.json` or of its folder; None: no transfer set.
        task_hash: hash of the task.

    Raises:
        FileNotFoundError, ValueError: see `load_transfer_set`.
    """
    if path is None:
        return []
    verdict = set_verdict(path)
    if verdict is not None and not verdict.passed:
        logger.warning("%s", verdict.sentence)
    used = verdict is None or verdict.used
    entries = load_transfer_set(path, task_hash, rejected=not used)  # a set that is left out is checked too
    return entries if used else []


def load_transfer_set(path: str | Path, task_hash: str, rejected: bool = False) -> list[dict[str, Any]]:
    """Returns the accepted images of a transfer set, ordered by seed.

    Each is {"image", "case", "origin", "seed", "sha256", "condition"}, with "label" if it was conditioned on a label
    map, and with the results of the gates; paths are absolute.

    Args:
        path: path of `transfer_set.json` or of its folder.
        task_hash: hash of the task.
        rejected: whether images that the gates rejected are returned too.

    Raises:
        FileNotFoundError: when the list or an image is missing.
        ValueError: when the list is of another task, is malformed, or names a file outside of its folder, or when an
            image is damaged.
    """
    path = _manifest(path)
    content = read_json(path)
    check_fields(content, {"format_version": (int,)}, str(path), ADVICE)
    if content["format_version"] != FORMAT_VERSION:
        raise ValueError(
            f"Expected format_version {FORMAT_VERSION} in {path}, found {content['format_version']}; sample it again."
        )
    check_fields(content, SETTINGS, str(path), ADVICE)
    if content["task_hash"] != task_hash:
        raise ValueError(
            f"Expected a transfer set of task {task_hash} in {path}, found one of task {content['task_hash']}; "
            "sample one for this task, or give the path of the right one."
        )
    if "rejected" in content:
        check_fields(content, {"rejected": (list,)}, str(path), ADVICE)
    wanted = [*content["unlabeled"], *(content.get("rejected", []) if rejected else [])]
    entries = [_checked_entry(entry, path, index) for index, entry in enumerate(wanted)]
    if not entries and content.get("rejected"):
        raise ValueError(
            f"Expected at least one accepted image in {path}, but the gates rejected all {len(content['rejected'])}; "
            "look at the report of the gates, train the diffusion model longer or on more images."
        )
    if not entries:
        raise ValueError(f"Expected at least one image in unlabeled of {path}, found none; sample it again.")
    for key in ("image", "case"):
        if len({entry[key] for entry in entries}) < len(entries):
            raise ValueError(f"Expected every {key} in unlabeled of {path} once, found one twice; sample it again.")
    return sorted(entries, key=lambda entry: entry["seed"])


def _manifest(path: str | Path) -> Path:
    """Returns the path of the list, after checking that sampling is complete."""
    path = Path(path)
    path = path / MANIFEST_NAME if path.is_dir() else path
    if not path.is_file() and progress_files(path.parent):
        raise FileNotFoundError(f"Expected {path}, found a transfer set whose sampling was stopped; run it again.")
    return path


def _checked_entry(entry: Any, path: Path, index: int) -> dict[str, Any]:
    """Returns a checked copy of entry `index` with the absolute path of its image."""
    where = f"{path}, unlabeled[{index}]"
    check_fields(entry, ENTRY, where, ADVICE)
    if not SHA256.fullmatch(entry["sha256"]):
        raise ValueError(f"Expected sha256 in {where} to be 64 hex digits, found {entry['sha256']!r}.")
    if not entry["case"]:
        raise ValueError(f"Expected case in {where} to name a case, found an empty string.")
    checked = {**entry, "image": _checked_file(entry["image"], entry["sha256"], path, where)}
    if "label" in entry:
        check_fields(entry, MASKED_ENTRY, where, ADVICE)
        checked["label"] = _checked_file(entry["label"], entry["mask_sha256"], path, where)
    return checked


def _checked_file(name: str, sha256: str, path: Path, where: str) -> str:
    """Returns the absolute path of a file of the set, after checking that it exists and is unchanged."""
    folder = path.parent.resolve()
    if "\0" in name or not (file := (folder / name).resolve()).is_relative_to(folder):
        raise ValueError(f"Expected files of {where} to be inside the list's folder, found {name!r}.")
    if not (is_there(file) and file.is_file()):
        raise FileNotFoundError(f"Expected the file {name} of {where}, found no such file; sample it again.")
    if file_sha256(file) != sha256:
        raise ValueError(f"Expected {name} of {where} as it was written, found another file; sample it again.")
    return str(file)

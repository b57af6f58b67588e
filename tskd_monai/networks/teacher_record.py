"""``teacher.json``: what a teacher was built from, and the sha256 of the files beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from tskd_monai.networks.encoder_records import encoder_record
from tskd_monai.networks.encoders import image_size_hw
from tskd_monai.networks.lora import checked_peft_options
from tskd_monai.networks.teacher_build import TeacherSpec

RECORD_FILE = "teacher.json"
FORMAT_VERSION = 1
RECORD_TYPES: Mapping[str, type] = {
    "task_hash": str, "spec": dict, "base_encoder_sha256": str, "files": dict, "record": dict,
}  # fmt: skip
SPEC_TYPES: Mapping[str, tuple[type, ...]] = {
    "encoder": (str,), "encoder_weights": (str,), "weights_sha256": (str, type(None)), "image_size": (list,),
    "num_classes": (int,), "decoder": (str,), "decoder_lora": (bool,), "refine": (bool,), "tuning": (str,),
    "rank": (int,), "alpha": (float, int), "dropout": (float, int), "target_modules": (list, type(None)),
    "qkv_parts": (str,), "peft_options": (dict,), "seed": (int,),
}  # fmt: skip
MAX_CLASSES = 256
"""As many as an 8-bit label map tells apart; a decoder for a claimed billion would take all memory."""


def read_teacher_record(folder: str | Path) -> dict[str, Any]:
    """Returns the content of ``teacher.json``.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it cannot be read, its format is another, or an entry is missing or of another type.
    """
    path = Path(folder) / RECORD_FILE
    if not path.is_file():
        raise FileNotFoundError(f"Expected {RECORD_FILE} in the teacher folder {folder}, found none; train one first.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"Expected JSON in {path}, found a damaged file ({error}); copy the folder again.") from error
    if not isinstance(content, dict):
        raise ValueError(f"Expected a JSON object in {path}, found {type(content).__name__}; copy the folder again.")
    if content.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"Expected format_version {FORMAT_VERSION} in {path}, found {content.get('format_version')!s:.80}; "
            "train the teacher again with this version."
        )
    if missing := [name for name in RECORD_TYPES if name not in content]:
        raise ValueError(f"Expected {', '.join(missing)} in {path}, found none; copy the folder again.")
    for name, kind in RECORD_TYPES.items():
        if not isinstance(content[name], kind):
            what = "a JSON object" if kind is dict else "a text"
            found = type(content[name]).__name__
            raise ValueError(f"Expected {what} as the {name} in {path}, found {found}; copy the folder again.")
    if not all(isinstance(digest, str) for digest in content["files"].values()):
        raise ValueError(f"Expected a sha256 of each of the files in {path}, found another; copy the folder again.")
    return content


def spec_from_json(values: Mapping[str, Any], path: Path) -> TeacherSpec:
    """Returns what a teacher is built from, checked before anything is built.

    Args:
        values: the record's ``spec``.
        path: of the record; named in errors.

    Raises:
        ValueError: if a field is missing, unknown, of another type or out of range.
    """
    expected = {field.name for field in fields(TeacherSpec)}
    if different := sorted(values.keys() ^ expected):
        state = "unknown" if different[0] in values else "missing"
        raise ValueError(
            f"The spec in {path} does not fit this version: {different[0]} is {state}, {len(different)} entries "
            "differ; train the teacher again, or use the version it was trained with."
        )
    try:
        _check_types(values)
        targets = values["target_modules"]
        encoder_record(values["encoder"])
        checked_peft_options(values["peft_options"])
        return TeacherSpec(
            **{
                **values,
                "image_size": image_size_hw(values["image_size"]),
                "target_modules": None if targets is None else tuple(targets),
            }
        )
    except ValueError as error:
        raise ValueError(f"The spec in {path} builds no teacher: {error} Copy the folder again.") from error


def _check_types(values: Mapping[str, Any]) -> None:
    for name, types in SPEC_TYPES.items():
        value = values[name]
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            names = " or ".join(kind.__name__ for kind in types)
            raise ValueError(f"Expected {name} to be {names}, found {value!r:.80}.")
    if not all(type(side) is int for side in values["image_size"]):
        raise ValueError(f"Expected image_size as two whole numbers, found {values['image_size']!r:.80}.")
    if not all(isinstance(target, str) for target in values["target_modules"] or ()):
        raise ValueError(f"Expected target_modules to be names of layers, found {values['target_modules']!r:.80}.")
    if not 2 <= values["num_classes"] <= MAX_CLASSES:
        raise ValueError(f"Expected num_classes of 2 to {MAX_CLASSES}, found {values['num_classes']!r:.80}.")
    if not 0 <= values["seed"] < 2**63:
        raise ValueError(f"Expected a seed from 0 to 2^63 - 1, found {values['seed']!r:.80}.")

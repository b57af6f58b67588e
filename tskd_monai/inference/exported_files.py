"""Exported networks beside a bundle's weights, and `export.json`, which states the weights they were made from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tskd_monai.files.checksum import file_sha256
from tskd_monai.files.file_kind import refuse_other_kinds
from tskd_monai.files.json_files import Fields, check_fields, read_json

WEIGHTS = "model.pt"
RECORD = "export.json"
ONNX_FILE = "model.onnx"
OPENVINO_FILE = "model.xml"
OPENVINO_INT8_FILE = "model_int8.xml"

ADVICE = "write it with `tskd export STUDENT_BUNDLE` of tskd-monai"


def weights_record(models: Path) -> dict[str, str]:
    """Returns the field of the record that identifies the weights."""
    return {"weights_sha256": file_sha256(models / WEIGHTS)}


def file_record(path: Path) -> dict[str, str]:
    """Returns the sha256 of an exported file by name; for an OpenVINO graph also that of its `.bin`."""
    parts = [path] if path.suffix != ".xml" else [path, path.with_suffix(".bin")]
    return {part.name: file_sha256(part) for part in parts}


def exported_file(models: str | Path, name: str) -> Path:
    """Returns the path of an exported file once it is known to match the weights beside it.

    Training replaces only `model.pt`; without this check, an older export would segment with the previous weights.

    Args:
        models: folder of `model.pt`, `export.json` and the exported files.
        name: file name.

    Raises:
        FileNotFoundError: when the file or the record is missing.
        ValueError: when the file was made from other weights or has changed since, or the record is malformed.
    """
    models = Path(models)
    path = models / name
    if not (path.is_file() and (models / RECORD).is_file()):
        raise FileNotFoundError(f"Expected {name} and {RECORD} beside {WEIGHTS} in models/, found none; {ADVICE}.")
    record = _read_record(models)
    if record["weights_sha256"] != file_sha256(models / WEIGHTS):
        refuse_other_kinds(models / WEIGHTS)
        raise ValueError(
            f"Expected {name} made from {WEIGHTS} as it is, found in {RECORD} that it was made from other weights; "
            f"{ADVICE}."
        )
    changed = [part for part, digest in file_record(path).items() if record["files"].get(part) != digest]
    if changed:
        for part in changed:
            if not part.endswith(".xml"):  # a graph is XML, as a web page may be
                refuse_other_kinds(models / part)
        raise ValueError(f"Expected {name} as it was exported, found it changed since by {RECORD}; {ADVICE}.")
    return path


def is_accepted(models: str | Path, engine: str, precision: str) -> bool:
    """Returns whether the export accepted an engine at a precision.

    Raises:
        FileNotFoundError: when there is no record.
        ValueError: when the record is malformed.
    """
    rows = _read_record(Path(models))["parity"]
    return any(row["accepted"] for row in rows if (row["engine"], row["precision"]) == (engine, precision))


def _read_record(models: Path) -> dict[str, Any]:
    """Returns `export.json` with its fields checked."""
    path = models / RECORD
    record = read_json(path)
    check_fields(record, {"weights_sha256": (str,), "files": (dict,), "parity": (list,)}, str(path), ADVICE)
    for index, row in enumerate(record["parity"]):
        fields: Fields = {"engine": (str,), "precision": (str,), "accepted": (bool,)}
        check_fields(row, fields, f"{path}, parity[{index}]", ADVICE)
    return dict(record)

"""Exported networks beside a bundle's weights, and the record that says which weights they were made from."""

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
    """Returns what names the weights of a bundle in the record."""
    return {"weights_sha256": file_sha256(models / WEIGHTS)}


def file_record(path: Path) -> dict[str, str]:
    """Returns the sha256 of an exported file, and of the weights beside an OpenVINO graph, by name."""
    parts = [path] if path.suffix != ".xml" else [path, path.with_suffix(".bin")]
    return {part.name: file_sha256(part) for part in parts}


def exported_file(models: str | Path, name: str) -> Path:
    """Returns the path of an exported file that was made from the weights beside it.

    Training again replaces `model.pt` alone; an older export would go on segmenting with the former weights.

    Args:
        models: folder with `model.pt`, `export.json` and the exported files.
        name: of the file.

    Raises:
        FileNotFoundError: when there is no such file or no record.
        ValueError: when it was made from other weights, or changed since, or the record is not what an export writes.
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
    """Returns whether the export's check of an engine against torch went well.

    Raises:
        FileNotFoundError: when there is no record.
        ValueError: when the record is not what an export writes.
    """
    rows = _read_record(Path(models))["parity"]
    return any(row["accepted"] for row in rows if (row["engine"], row["precision"]) == (engine, precision))


def _read_record(models: Path) -> dict[str, Any]:
    """Returns the content of `export.json`, its fields checked."""
    path = models / RECORD
    record = read_json(path)
    check_fields(record, {"weights_sha256": (str,), "files": (dict,), "parity": (list,)}, str(path), ADVICE)
    for index, row in enumerate(record["parity"]):
        fields: Fields = {"engine": (str,), "precision": (str,), "accepted": (bool,)}
        check_fields(row, fields, f"{path}, parity[{index}]", ADVICE)
    return dict(record)

"""The record that a stage leaves: what it ran with, on what, and what came out."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from tskd_monai.files.atomic import write_json
from tskd_monai.files.checksum import file_sha256

RECORDED_PACKAGES = ("tskd-monai", "torch", "monai", "pytorch-ignite", "numpy", "peft", "transformers", "diffusers")


A_PATH = "(a path)"


def package_versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that results depend on."""
    versions = {"python": platform.python_version()}
    for name in RECORDED_PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def write_record(
    path: str | Path,
    stage: str,
    settings: Mapping[str, Any],
    inputs: Mapping[str, str | Path],
    results: Mapping[str, Any],
) -> None:
    """Writes a stage's record as JSON; a stage is finished when its record exists.

    Args:
        path: of the record.
        stage: name of the bundle and step.
        settings: what the user could have set otherwise; of a path it is noted that it was given, not which, for
            folders may be called after patients.
        inputs: files that were read, by name; their sha256 is noted.
        results: numbers that came out.
    """
    record = {
        "stage": stage,
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "settings": {name: A_PATH if _is_path(value) else value for name, value in settings.items()},
        "inputs": {name: file_sha256(file) for name, file in inputs.items()},
        "results": dict(results),
        "versions": package_versions(),
    }
    write_json(path, record)


def _is_path(value: Any) -> bool:
    return isinstance(value, Path) or (isinstance(value, str) and ("/" in value or "\\" in value))

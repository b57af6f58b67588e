"""Rewrites configs for an exported bundle, so that they find the bundled code from any working directory.

MONAI's runner adds the bundle's folder to Python's path only after `initialize`; its export commands and programs that
take single parts of a config never do. So each config gets the expression `vendored_code`, which adds it; `initialize`
begins with it, and components of the bundled code require it: in JSON all of them, in YAML the task, on which every
network depends. Only `--bundle_root`, needed from another folder anyway, must be given.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai.utils import ensure_tuple

from tskd_monai.bundle.zoo.vendored_code import VENDORED, rewritten

FOUND = "vendored_code"
FIND = "$sys.path.insert(0, str(@bundle_root))"
IMPORT = "$import sys"
TASK_ID = "task_def"
SIBLING = "$Path(@bundle_root).resolve().parent / 'segmentation'"
"""Where the project keeps the template of students: beside the bundle. An exported bundle contains it."""
INSIDE = "$Path(@bundle_root) / 'segmentation'"


def export_config(
    source: Path, target: Path, name: str, extras: Mapping[str, str], settings: Mapping[str, Any]
) -> None:
    """Writes a config of a bundle as the exported bundle has it.

    Args:
        source: JSON or YAML config; comments of YAML are kept.
        target: file to write.
        name: name of the exported bundle, for the commands in comments.
        extras: see `vendored_code.rewritten`.
        settings: new values of top-level ids; each must be on one line of the config.

    Raises:
        ValueError: if an id of `settings` is not in the config.
    """
    text = rewritten(source.read_text(encoding="utf-8"), extras).replace(SIBLING, INSIDE)
    text = text.replace(f"bundles/{source.parent.parent.name}", name)
    settings = json.loads(rewritten(json.dumps(settings), extras))
    export = _json_config if source.suffix == ".json" else _yaml_config
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(export(text, settings, source), encoding="utf-8")


def _json_config(text: str, settings: Mapping[str, Any], source: Path) -> str:
    config = json.loads(text)
    for id_, value in settings.items():
        _require(id_ in config, id_, source)
        config[id_] = value
    if "bundle_root" in config:
        config = _with_finder(config)
    elif "initialize" in config:
        config["initialize"].insert(0, f"@{FOUND}")
    return json.dumps(config, indent=4) + "\n"


def _with_finder(config: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"imports": [*config.get("imports", []), IMPORT]}
    for id_, value in config.items():
        if id_ != "imports":
            found[id_] = _requiring_code(value)
        if id_ == "bundle_root":
            found[FOUND] = FIND
    return {**found, "initialize": [f"@{FOUND}", *config.get("initialize", [])]}


def _requiring_code(value: Any) -> Any:
    """Returns a part of a config in which each component of the bundled code requires it to be found."""
    if isinstance(value, list):
        return [_requiring_code(part) for part in value]
    if not isinstance(value, dict):
        return value
    parts = {key: _requiring_code(part) for key, part in value.items()}
    if not str(value.get("_target_", "")).startswith(f"{VENDORED}."):
        return parts
    return {**parts, "_requires_": [f"@{FOUND}", *ensure_tuple(value.get("_requires_", ()))]}


def _yaml_config(text: str, settings: Mapping[str, Any], source: Path) -> str:
    """Returns a YAML config rewritten line by line, which keeps comments: a top-level id begins its line."""
    ids = {line.partition(":")[0] for line in text.splitlines()}
    for id_ in settings:
        _require(id_ in ids, id_, source)
    standalone = "bundle_root" in ids
    lines = []
    for line in text.splitlines():
        id_ = line.partition(":")[0]
        if standalone and id_ == "bundle_root":
            imports = [] if "imports" in ids else ["imports:", f"- {IMPORT}"]
            lines += [*imports, line, f"{FOUND}: {FIND}"]
        elif standalone and id_ == "imports":
            lines += [line, f"- {IMPORT}"]
        elif standalone and line == f"{TASK_ID}:":
            lines += [line, f'  _requires_: "@{FOUND}"']
        elif standalone and id_ == TASK_ID:
            lines.append(line.replace("{", f'{{_requires_: "@{FOUND}", ', 1))
        elif id_ == "initialize":
            lines += [line, f'- "@{FOUND}"']
        elif id_ in settings:
            lines.append(f"{id_}: {settings[id_]}")
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


def _require(present: bool, id_: str, source: Path) -> None:
    if not present:
        raise ValueError(f"Expected the id {id_} at the top of {source}, found none; correct the export's settings.")

"""Paths of the bundles and their configs, and which configs are run together."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from tests.support.paths import ROOT

REQUIRED_CONFIGS = {
    "teacher_lora": ("train", "inference"),
    "diffusion_synthesis": ("train", "inference"),
    "distillation": ("train", "targets"),
    "segmentation": ("train", "inference"),
}
NO_CONFIGS = frozenset({"metadata.json", "task.json"})
CONFIG_SUFFIXES = (".yaml", ".yml", ".json")


def bundle_folders(root: Path = ROOT) -> list[Path]:
    """Return the four bundles, whether they exist or not, then any other folder in `bundles/`."""
    found = {path.name for path in (root / "bundles").glob("*") if path.is_dir()}
    return [root / "bundles" / name for name in [*REQUIRED_CONFIGS, *sorted(found - set(REQUIRED_CONFIGS))]]


def config_files(bundle: Path) -> list[Path]:
    """Returns the configs of a bundle for MONAI's runner: all but the metadata and the task."""
    paths = sorted((bundle / "configs").glob("*"))
    return [path for path in paths if path.suffix in CONFIG_SUFFIXES and path.name not in NO_CONFIGS]


def read_config(path: Path) -> dict[str, Any]:
    """Return the content of a config file as MONAI's parser loads it."""
    content = ConfigParser.load_config_file(str(path))
    if not isinstance(content, dict):
        raise ValueError(f"Expected a mapping of ids in {path.name}, found {type(content).__name__}")
    return content


def is_override(path: Path) -> bool:
    """Returns whether a config only overrides another one: it has no `bundle_root` of its own."""
    return "bundle_root" not in read_config(path)


def documented_runs(override: Path) -> list[list[Path]]:
    """Returns the lists of configs in which an override is documented, each up to and including the override.

    Such a list is written as for the runner, `"['configs/train.yaml','configs/mae.yaml']"`, in the comments of the
    override's file or in the bundle's `docs/README.md`; only the file name of each entry counts.
    """
    comments = re.findall(r"^\s*#(.*)", override.read_text(encoding="utf-8"), re.MULTILINE)
    readme = override.parent.parent / "docs" / "README.md"
    text = " ".join(comments) + (readme.read_text(encoding="utf-8") if readme.is_file() else "")
    runs = []
    for listed in re.findall(r"\[([^\[\]]+)\]", text):
        names = [Path(entry).name for entry in re.findall(r"""['"]([^'"]+\.(?:json|ya?ml))['"]""", listed)]
        if override.name in names[1:]:
            run = [override.parent / name for name in names[: names.index(override.name) + 1]]
            if run not in runs:
                runs.append(run)
    return runs


def runs(bundle: Path) -> list[list[Path]]:
    """Returns everything a user runs: each stand-alone config, and each documented list of several."""
    found: list[list[Path]] = []
    for path in config_files(bundle):
        found.extend(documented_runs(path) if is_override(path) else [[path]])
    return found

"""Reports on this machine and installation: what training and inference will find, and what is missing.

tskd doctor
tskd doctor --json

Exit code 0: everything installed is usable; 1: something is broken or too small, and the last lines state what.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from tskd_monai.commands.command_parser import CommandParser

DISTRIBUTION = "tskd-monai"
GB = 1e9
NEEDED_MEMORY_GB = 6
"""Below it, training is likely to swap: a rule of thumb, not a measurement."""
NEEDED_DISK_GB = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the command line, prints the findings and returns the exit code."""
    parser = CommandParser("doctor", __doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    args = parser.parse_args(argv)
    found = {"machine": machine(), "torch": torch_build(), "versions": versions(), "extras": extras()}
    advice = problems(found)
    if args.json:
        print(json.dumps({**found, "problems": advice}, indent=2))
    else:
        print(page(found, advice))
    return int(bool(advice))


def machine() -> dict[str, Any]:
    """Returns processor, memory, disk and Python of this machine; sizes in GB."""
    import psutil

    memory = psutil.virtual_memory()
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "cores": _usable_cores(),
        "memory_gb": round(memory.total / GB, 1),
        "free_memory_gb": round(memory.available / GB, 1),
        "free_disk_gb": round(shutil.disk_usage(Path.cwd()).free / GB, 1),
    }


def torch_build() -> dict[str, Any]:
    """Returns the build of torch and the devices it finds."""
    import torch

    from tskd_monai.networks.bfloat16 import cpu_name, lack_of_bfloat16

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "version": torch.__version__,
        "build": f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU",
        "processor": cpu_name(),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
        "bfloat16": lack_of_bfloat16("cuda" if gpus else "cpu") is None,
    }


def versions() -> dict[str, str | None]:
    """Returns the installed version of each package that this one requires; None if it is missing."""
    return {name: _version(name) for name in [DISTRIBUTION, *_requirements(None)]}


def extras() -> dict[str, list[str]]:
    """Returns the packages of each extra that are not installed."""
    names = metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or []
    return {extra: [name for name in _requirements(extra) if _version(name) is None] for extra in names}


def problems(found: dict[str, Any]) -> list[str]:
    """Returns what prevents this installation from working, one sentence each with the remedy."""
    advice = []
    missing = [name for name, version in found["versions"].items() if version is None]
    if missing:
        advice.append(f"Missing: {', '.join(missing)}. Run: pip install {' '.join(missing)}")
    if found["machine"]["memory_gb"] < NEEDED_MEMORY_GB:
        advice.append(
            f"{found['machine']['memory_gb']} GB of memory: training needs about {NEEDED_MEMORY_GB} GB; segmenting "
            "works with less."
        )
    if found["machine"]["free_disk_gb"] < NEEDED_DISK_GB:
        advice.append(
            f"{found['machine']['free_disk_gb']} GB of free disk here: a run needs about {NEEDED_DISK_GB} GB."
        )
    if found["torch"]["build"] != "CPU" and not found["torch"]["gpus"]:
        advice.append(
            "torch is a CUDA build (several GB) and finds no GPU. Without an NVIDIA card the CPU build does the same; "
            "PyTorch's installation page shows its command (Compute Platform: CPU)."
        )
    return advice


def page(found: dict[str, Any], advice: Sequence[str]) -> str:
    """Returns the findings as text."""
    here, torch = found["machine"], found["torch"]
    arithmetic = "bfloat16 and float32" if torch["bfloat16"] else "float32 (bfloat16 would be emulated, and slow)"
    lines = [
        f"System      {here['system']}, Python {here['python']}",
        f"Processor   {torch['processor']}, {here['cores']} cores, {torch['threads']} threads for torch",
        f"Memory      {here['free_memory_gb']} of {here['memory_gb']} GB free",
        f"Disk        {here['free_disk_gb']} GB free in this folder",
        f"GPU         {', '.join(torch['gpus']) or 'none found; everything runs on the CPU'}",
        f"torch       {torch['version']} ({torch['build']} build), computes in {arithmetic}",
        "",
        "Packages    " + ", ".join(f"{name} {version or 'MISSING'}" for name, version in found["versions"].items()),
        "",
    ]
    for extra, missing in found["extras"].items():
        state = f"missing {', '.join(missing)}: pip install '{DISTRIBUTION}[{extra}]'" if missing else "installed"
        lines.append(f"Extra       {extra:<10} {state}")
    return "\n".join([*lines, "", *(advice or ["No problems found."])])


def _requirements(extra: str | None) -> list[str]:
    """Returns the names of the packages that this package, or one of its extras, requires."""
    from packaging.requirements import Requirement

    names = []
    for line in metadata.requires(DISTRIBUTION) or []:
        requirement = Requirement(line)
        marker = requirement.marker
        core = marker is None or marker.evaluate({"extra": ""})
        if core if extra is None else not core and marker is not None and marker.evaluate({"extra": extra}):
            names.append(requirement.name)
    return names


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _usable_cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

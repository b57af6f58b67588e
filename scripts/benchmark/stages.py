"""Runs stages: once each, in a folder that the cells of all processes share."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import monai.bundle
import torch
from cells import Stage, Study, data_folder, weights_file

from tskd_monai.bundle.options import default_device
from tskd_monai.files.json_files import read_json, write_json

SCRIPTS = Path(__file__).resolve().parents[1]
BUNDLES = SCRIPTS.parent / "bundles"
sys.path.insert(0, str(SCRIPTS))

LARGE_FILES = ("last.pt", "best.pt")


class Workplace:
    """A folder with the output of each stage, found again by the stage's key.

    Args:
        folder: made when missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def output(self, stage: Stage, study: Study) -> Path:
        """Returns the folder that a stage writes into."""
        own = stage.study(study)
        what = f"{stage.bundle}-{Path(stage.configs[-1]).stem}"
        return self.folder / "stages" / f"{own.dataset}-{own.split}-{what}-{stage.key(study)[:12]}"

    def run(self, stage: Stage, study: Study) -> dict[str, Any]:
        """Runs a stage, and before it those that it needs, unless that was done before.

        Returns:
            The stage's name and settings, its seconds, those of the processor, which other work on the machine hardly
            changes, the GPU, and the results of its record.
        """
        for needed in stage.inputs.values():
            self.run(needed, study)
        output = self.output(stage, study)
        finished = output.with_suffix(".json")
        with locked(output.with_suffix(".lock")):
            if not finished.is_file():
                shutil.rmtree(output, ignore_errors=True)
                started, cpu_started = time.monotonic(), time.process_time()
                self._call(stage, study, output)
                seconds = {
                    "seconds": round(time.monotonic() - started, 1),
                    "cpu_seconds": round(time.process_time() - cpu_started, 1),
                }
                where = {"gpu": gpu_model(), "commit": checkout_commit()}
                write_json(finished, {**_described(stage), **seconds, **where, "results": _results(output)})
                for name in LARGE_FILES:
                    (output / name).unlink(missing_ok=True)
        return {"name": stage.name, **read_json(finished)}

    def _call(self, stage: Stage, study: Study, output: Path) -> None:
        settings = {**stage.settings, "seed": study.seed, "output_dir": str(output)}
        if "encoder_weights" in settings:
            settings["encoder_weights"] = weights_file(settings["encoder_weights"])
        for option, needed in stage.inputs.items():
            settings[option] = str(self.output(needed, study))
        # A place, not a setting: answers are found by teacher, task and image.
        settings.setdefault("cache_dir", str(self.folder / "teacher_targets"))
        run_bundle(BUNDLES / stage.bundle, stage.configs, {**settings, **self.study_files(stage.study(study))})

    def study_files(self, study: Study) -> dict[str, str]:
        """Returns the options `datalist` and `task` of a study, which is planned when it was not yet."""
        folder = self.folder / "studies" / f"{study.dataset}-{study.split}-{study.key[:12]}"
        with locked(folder.with_suffix(".lock")):
            if not (folder / "task.json").is_file():
                plan(study, folder)
        return {"datalist": str(folder / "datalist.json"), "task": str(folder / "task.json")}


def plan(study: Study, folder: Path) -> None:
    """Writes a study's datalist and task; with `planned_from`, the task of that budget."""
    from tskd_monai.commands.task_files import plan_dataset

    source = data_folder(study) / "datalist.json"
    if study.labels is not None:
        content = read_json(source)
        for section in ("training", "validation", "test"):
            for entry in content[section]:
                entry.update({key: str(source.parent / entry[key]) for key in ("image", "label")})
        source = folder / "source.json"
        write_json(source, {**content, "labels": study.labels})
    budgets = [study.labelled_slices] if study.planned_from is None else [study.labelled_slices, study.planned_from]
    folders = [folder, folder / "planned_from"]
    for budget, of_budget in zip(budgets, folders, strict=False):
        plan_dataset(source, of_budget, study.image_size, labelled_slices=budget, seed=study.seed, fold=study.fold)
    if study.planned_from is not None:
        (folders[1] / "task.json").replace(folder / "task.json")


def run_bundle(bundle: Path, configs: tuple[str, ...], overrides: dict[str, Any]) -> None:
    """Runs a bundle's configs in this process."""
    files = [str(bundle / "configs" / name) for name in configs]
    monai.bundle.run(bundle_root=str(bundle), config_file=files, **overrides)


def gpu_model() -> str | None:
    """Model of the GPU that bundles choose; None without one."""
    device = default_device()
    return torch.cuda.get_device_name(device) if device.type == "cuda" else None


def checkout_commit() -> str:
    """Returns the commit at which what runs here runs to the same result; `+` where code has changed since."""
    code = (":/", ":(top,exclude)scripts/benchmark/results")
    head = _git("rev-parse", "HEAD")
    return f"{head}+" if _git("status", "--porcelain", "--untracked-files=no", "--", *code) else head or "unknown"


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(BUNDLES), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a lock that no other process can hold; it is free again when the process ends, however it ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _described(stage: Stage) -> dict[str, Any]:
    return {
        "bundle": stage.bundle,
        "configs": list(stage.configs),
        "settings": stage.settings,
        "inputs": {option: needed.name for option, needed in stage.inputs.items()},
    }


def _results(output: Path) -> dict[str, Any]:
    record = output / "record.json"
    return dict(read_json(record)["results"]) if record.is_file() else {}

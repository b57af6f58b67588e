"""Runs the stages of cells, once each, in a store shared by the cells of all processes."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from cells import Cell, Split, Stage, data_folder, weights_file
from results import locked

from tskd_monai.bundle import stage_store
from tskd_monai.bundle.options import default_device
from tskd_monai.bundle.run import BundleRun
from tskd_monai.commands.task_files import plan_dataset
from tskd_monai.commands.train.stages import STUDENT_RESULTS, TEACHER_RESULTS, PlannedDataset, read_dataset
from tskd_monai.data.task import load_task
from tskd_monai.files.checksum import ContentHashes
from tskd_monai.files.json_files import read_json, write_json
from tskd_monai.files.private_files import private_file
from tskd_monai.files.shipped import BUNDLES

STAGE_RESULTS = (*TEACHER_RESULTS, *STUDENT_RESULTS, "pipeline/**/*", "images/*", "gates.json")
LARGE_FILES = ("last.pt", "best.pt")


class Workplace:
    """A folder with the output of each stage, found again by the stage's key.

    Args:
        folder: root folder; created if missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hashes = ContentHashes(private_file(folder, "content_hashes.json"))

    def run(self, cell: Cell) -> tuple[list[dict[str, Any]], dict[str, Any], Path]:
        """Runs the stages of a cell and the scoring of its model, unless already done.

        Returns:
            The record of each stage (name and settings, wall seconds, CPU seconds, which depend little on other load,
            the GPU, the commit and the results of its record), the record of the scoring, and the path of
            `metrics.csv`.
        """
        chain = cell.stage.chain()
        stages = [*(self._stage(stage, cell.split) for stage in chain), self._scoring(cell)]
        self.hashes.save()
        names = [stage.name for stage in stages]
        store = stage_store.StageStore(self.folder, stages, restart=names, runner=run_here)
        for stage in stages:
            with locked(self.folder / "stages" / f"{stage.name}.lock"):
                store.run_stage(stage)
        described = [_described(stage, store, name) for stage, name in zip(chain, names, strict=False)]
        return described, store.state(names[-1]), store.folder(names[-1]) / "metrics.csv"

    def name(self, stage: Stage, split: Split) -> str:
        """Returns the name of a stage in the store, which contains its key."""
        own = stage.split(split)
        what = f"{stage.bundle}-{Path(stage.configs[-1]).stem}"
        return f"{own.dataset}-{own.name}-{what}-{stage.key(split)[:12]}"

    def dataset(self, split: Split) -> PlannedDataset:
        """Returns the dataset of a split with its task, planning the task if necessary."""
        folder = self.folder / "datasets" / f"{split.dataset}-{split.name}-{split.key[:12]}"
        with locked(folder.with_suffix(".lock")):
            if not (folder / "task.json").is_file():
                plan(split, folder)
        task_file = folder / "task.json"
        return read_dataset(folder / "datalist.json", task_file, load_task(task_file), self.hashes)

    def _stage(self, stage: Stage, split: Split) -> stage_store.Stage:
        dataset = self.dataset(stage.split(split))
        needs = {option: self.name(needed, split) for option, needed in stage.inputs.items()}
        paths: dict[str, Any] = {option: self.folder / name for option, name in needs.items()}
        if "encoder_weights" in stage.settings:
            paths["encoder_weights"] = weights_file(stage.settings["encoder_weights"])
        paths |= {"datalist": dataset.datalist, "task": dataset.task_file}
        if (
            "cache_dir" not in stage.settings
        ):  # targets are identified by teacher, task and image, whichever stage cached them
            paths["cache_dir"] = self.folder / "teacher_targets"
        return stage_store.Stage(
            self.name(stage, split), stage.name, BUNDLES / stage.bundle, stage.configs,
            {**stage.settings, "seed": split.seed}, partial(dict, paths),
            {"data": dataset.digests, **dataset.task_inputs}, tuple(needs.values()), STAGE_RESULTS,
        )  # fmt: skip

    def _scoring(self, cell: Cell) -> stage_store.Stage:
        """Returns the stage that segments and scores the suite's section with the model of the last stage."""
        last = self.name(cell.stage, cell.split)
        model, dataset = self.folder / last, self.dataset(cell.split)
        bundle, configs, paths = model, ("inference.json", "evaluate.json"), {"resume": False}
        if cell.stage.bundle == "teacher_lora":
            bundle, configs = BUNDLES / "teacher_lora", ("inference.yaml", "evaluate.yaml")
            paths = {"task": model / "task.json", "teacher_dir": model}
        return stage_store.Stage(
            f"predictions-{cell.name}-{cell.config_hash[:12]}", f"{cell.score} section", bundle, configs,
            {"section": cell.score}, partial(dict, paths, datalist=dataset.datalist), {"data": dataset.digests},
            (last,), ("metrics.csv",),
        )  # fmt: skip


def run_here(run: BundleRun) -> Mapping[str, Any]:
    """Runs a stage completely in this process, so that all its time is measured, and removes its checkpoints."""
    shutil.rmtree(run.output_dir, ignore_errors=True)
    started = time.process_time()
    run.run_here()
    for name in LARGE_FILES:
        (run.output_dir / name).unlink(missing_ok=True)
    cpu_seconds = round(time.process_time() - started, 1)
    return {"cpu_seconds": cpu_seconds, "gpu": gpu_model(), "commit": checkout_commit()}


def plan(split: Split, folder: Path) -> None:
    """Writes the datalist and task of a split; with `planned_from`, the task of that budget."""
    source = data_folder(split) / "datalist.json"
    if split.labels is not None:
        content = read_json(source)
        for section in ("training", "validation", "test"):
            for entry in content[section]:
                entry.update({key: str(source.parent / entry[key]) for key in ("image", "label")})
        source = folder / "source.json"
        write_json(source, {**content, "labels": split.labels})
    budgets = [split.labelled_slices] if split.planned_from is None else [split.labelled_slices, split.planned_from]
    folders = [folder, folder / "planned_from"]
    for budget, of_budget in zip(budgets, folders, strict=False):
        plan_dataset(source, of_budget, split.image_size, labelled_slices=budget, seed=split.seed, fold=split.fold)
    if split.planned_from is not None:
        (folders[1] / "task.json").replace(folder / "task.json")


def gpu_model() -> str | None:
    """Returns the model of the GPU that bundles select; None without one."""
    device = default_device()
    return torch.cuda.get_device_name(device) if device.type == "cuda" else None


def checkout_commit() -> str:
    """Returns the commit that reproduces the results of this checkout; `+` if code has changed since."""
    code = (":/", ":(top,exclude)scripts/benchmark/results")
    head = _git("rev-parse", "HEAD")
    return f"{head}+" if _git("status", "--porcelain", "--untracked-files=no", "--", *code) else head or "unknown"


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(BUNDLES), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _described(stage: Stage, store: stage_store.StageStore, name: str) -> dict[str, Any]:
    own = {"name": stage.name, "bundle": stage.bundle, "configs": list(stage.configs), "settings": stage.settings}
    own["inputs"] = {option: needed.name for option, needed in stage.inputs.items()}
    noted = {key: store.state(name)[key] for key in ("seconds", "cpu_seconds", "gpu", "commit")}
    has_record = (store.folder(name) / "record.json").is_file()
    return {**own, **noted, "results": store.record(name) if has_record else {}}

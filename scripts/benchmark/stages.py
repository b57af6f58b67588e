"""Runs the stages of cells, once each, in a store shared by the cells of all processes."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from cells import SECOND, Cell, Split, Stage, data_folder, weights_file
from predictions import RAW_CONFIG, scored_entries
from results import locked
from torch.utils.flop_counter import FlopCounterMode

from tskd_monai.bundle import stage_store
from tskd_monai.bundle.options import default_device
from tskd_monai.bundle.run import BundleRun, config_files
from tskd_monai.bundle.training_length import training_length
from tskd_monai.commands.task_files import plan_dataset
from tskd_monai.commands.train.stages import STUDENT_RESULTS, TEACHER_RESULTS, PlannedDataset, read_dataset
from tskd_monai.data.datalist import load_datalist
from tskd_monai.data.task import load_task
from tskd_monai.files.checksum import ContentHashes
from tskd_monai.files.json_files import read_json, write_json
from tskd_monai.files.private_files import private_file
from tskd_monai.files.shipped import BUNDLES
from tskd_monai.inference.kept_predictions import LABEL_MAPS

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
            the GPU, the commit and the results of its record), the record of the scoring, and its folder.
        """
        chain = cell.stage.chain()
        stages: list[stage_store.Stage] = []
        counts: list[Mapping[str, int]] = []
        for stage in [*chain, None]:  # what a stage costs is known once those before it have run
            added, counted = (self._scoring(cell), {}) if stage is None else self._stage(stage, cell.split)
            stages.append(added)
            counts.append(counted)
            self.hashes.save()
            names = [one.name for one in stages]
            store = stage_store.StageStore(self.folder, stages, restart=names, runner=run_here)
            with locked(self.folder / "stages" / f"{added.name}.lock"):
                store.run_stage(added)
        described = [
            _described(stage, store, name, counted) for stage, name, counted in zip(chain, names, counts, strict=False)
        ]
        return described, store.state(names[-1]), store.folder(names[-1])

    def name(self, stage: Stage, split: Split) -> str:
        """Returns the name of a stage in the store, which contains its key."""
        own = stage.split(split)
        what = f"{stage.bundle}-{Path(stage.configs[-1]).stem}"
        return f"{own.dataset}-{own.name}-{what}-{stage.key(split)[:12]}"

    def dataset(self, split: Split) -> PlannedDataset:
        """Returns the dataset of a split with its task, planning the task if necessary."""
        split = split.data
        folder = self.folder / "datasets" / f"{split.dataset}-{split.name}-{split.key[:12]}"
        with locked(folder.with_suffix(".lock")):
            if not (folder / "task.json").is_file():
                plan(split, folder)
        task_file = folder / "task.json"
        return read_dataset(folder / "datalist.json", task_file, load_task(task_file), self.hashes)

    def _stage(self, stage: Stage, split: Split) -> tuple[stage_store.Stage, Mapping[str, int]]:
        """Returns the run of a stage, and what its length was counted from (with a budget)."""
        dataset = self.dataset(stage.split(split))
        needs = {option: [self.name(one, split) for one in needed] for option, needed in stage.needs().items()}
        paths: dict[str, Any] = {option: [str(self.folder / name) for name in names] for option, names in needs.items()}
        paths |= {option: Path(paths[option][0]) for option in needs if isinstance(stage.inputs[option], Stage)}
        for option in {"encoder_weights", "refiner_weights"} & set(stage.settings):
            paths[option] = weights_file(stage.settings[option])
        paths |= {"embedding_dir": self.folder / "embeddings"} if "refiner" in stage.settings else {}
        paths |= {"datalist": dataset.datalist, "task": dataset.task_file}
        if (
            "cache_dir" not in stage.settings
        ):  # targets are identified by teacher, task and image, whichever stage cached them
            paths["cache_dir"] = self.folder / "teacher_targets"
        settings, counted = {**stage.settings, "seed": stage.seed(split)}, {}
        if stage.multiply_adds is not None:
            files, options = config_files(BUNDLES / stage.bundle, stage.configs), {**settings, **paths}
            options["bundle_root"] = str(BUNDLES / stage.bundle)
            counted = training_length(files, options, stage.multiply_adds, dataset.slices)
            settings["epoch_length"] = counted["epoch_length"]
        return stage_store.Stage(
            self.name(stage, split), stage.name, BUNDLES / stage.bundle, stage.configs, settings, partial(dict, paths),
            {"data": dataset.digests, **dataset.task_inputs}, tuple(name for names in needs.values() for name in names),
            STAGE_RESULTS,
        ), counted  # fmt: skip

    def _scoring(self, cell: Cell) -> stage_store.Stage:
        """Returns the stage that segments the suite's section with the model of the last stage, and may score it."""
        last = self.name(cell.stage, cell.split)
        model, dataset = self.folder / last, self.dataset(cell.split)
        of_teacher = cell.stage.bundle == "teacher_lora"
        bundle, configs, paths = model, ["inference.json", "evaluate.json"], {"resume": False}
        if of_teacher:
            bundle, configs = BUNDLES / "teacher_lora", ["inference.yaml", "evaluate.yaml"]
            paths = {"task": model / "task.json", "teacher_dir": model}
        settings, datalist, results = {"section": cell.score}, dataset.datalist, ("metrics.csv",)
        if cell.protocol >= SECOND:
            configs[1] = str(RAW_CONFIG)
            settings |= {} if of_teacher else {"engine": "torch", "precision": "fp32"}
            datalist, results = self._scored_datalist(cell, datalist), (LABEL_MAPS,)
        return stage_store.Stage(
            f"predictions-{cell.name}-{cell.config_hash[:12]}", f"{cell.score} section", bundle, configs,
            settings, partial(dict, paths, datalist=datalist), {"data": dataset.digests}, (last,), results,
        )  # fmt: skip

    def _scored_datalist(self, cell: Cell, datalist: Path) -> Path:
        """Writes beside a datalist the one of the images that are scored, and returns its path."""
        path = datalist.with_name(f"{cell.score}_scored.json")
        content = load_datalist(datalist)
        with locked(datalist.with_suffix(".lock")):
            write_json(path, {**content, cell.score: scored_entries(cell, content)})
        return path


def run_here(run: BundleRun) -> Mapping[str, Any]:
    """Runs a stage completely in this process, so that all its time is measured, and removes its checkpoints."""
    shutil.rmtree(run.output_dir, ignore_errors=True)
    started, counter = time.process_time(), FlopCounterMode(display=False)
    targets = Path(run.configs[-1]).name == "targets.yaml"  # has no steps: its multiply-adds are those that it runs
    with counter if targets else nullcontext():
        run.run_here()
    for name in LARGE_FILES:
        (run.output_dir / name).unlink(missing_ok=True)
    cpu_seconds = round(time.process_time() - started, 1)
    counted = {"multiply_adds": {"total": counter.get_total_flops() // 2}} if targets else {}
    return {"cpu_seconds": cpu_seconds, "gpu": gpu_model(), "commit": checkout_commit(), **counted}


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


def _described(stage: Stage, store: stage_store.StageStore, name: str, counted: Mapping[str, int]) -> dict[str, Any]:
    settings = {**stage.settings, **({"epoch_length": counted["epoch_length"]} if counted else {})}
    own = {"name": stage.name, "bundle": stage.bundle, "configs": list(stage.configs), "settings": settings}
    of_inputs = {option: [one.name for one in needed] for option, needed in stage.needs().items()}
    own["inputs"] = {option: names[0] if len(names) == 1 else names for option, names in of_inputs.items()}
    state = store.state(name)
    noted = {key: state[key] for key in ("seconds", "cpu_seconds", "gpu", "commit")}
    if counted or "multiply_adds" in state:
        noted |= {"kind": stage.kind, "multiply_adds": dict(counted) or state["multiply_adds"]}
    has_record = (store.folder(name) / "record.json").is_file()
    return {**own, **noted, "results": store.record(name) if has_record else {}}

"""A tiny dataset, and every stage of the method on it: seconds each, in the order of their dependencies."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tests.reliability.warm_start import run_in_child
from tests.support.paths import BUNDLES
from tskd_monai.bundle import stage_store
from tskd_monai.bundle.run import BundleRun
from tskd_monai.data.datalist import load_datalist
from tskd_monai.data.planning.rules import plan_task
from tskd_monai.data.task import save_task
from tskd_monai.datasets.phantom.study import write_study

SECTIONS = {"training": 2, "validation": 1, "test": 6}
IMAGE_SIZE = 48
SHORT = {"epoch_length": 2, "max_epochs": 6, "batch_size": 2}


@dataclass(frozen=True)
class StageRun:
    """A stage with the settings that make it short.

    Attributes:
        name: name of the stage and of its folder.
        bundle: name of the bundle, or of the stage that wrote one.
        configs: configs of the bundle.
        settings: overrides of config ids.
        inputs: overrides whose value is the output folder of another stage, by config id.
        items: pattern of the files that a stage without epochs writes one by one.
        seeded: whether the config has a seed.
    """

    name: str
    bundle: str
    configs: Sequence[str]
    settings: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    items: str | None = None
    seeded: bool = True


TEACHER_AND_SET = {"teacher_dir": "teacher", "transfer_set": "transfer_set"}
TEACHERS_AND_SET = {"teacher_dirs": "teacher", "transfer_set": "transfer_set"}
STAGES = (
    StageRun("teacher", "teacher_lora", ["train.yaml"], {**SHORT, "lora_rank": 2, "val_interval": 2}),
    StageRun("diffusion", "diffusion_synthesis", ["train.yaml"], {**SHORT, "num_workers": 1}),
    StageRun("transfer_set", "diffusion_synthesis", ["inference.yaml"],
             {"number": 32, "num_inference_steps": 4, "batch_size": 4}, {"diffusion_dir": "diffusion"}, "images/*.png"),
    StageRun("teacher_targets", "distillation", ["targets.yaml"], {}, TEACHERS_AND_SET, "*.npz", seeded=False),
    StageRun("distilled", "distillation", ["train.yaml"], {**SHORT, "val_interval": 2}, TEACHER_AND_SET),
    StageRun("student", "distillation", ["fine_tune.yaml"], {**SHORT, "val_interval": 2, "num_workers": 1},
             {"initial_student": "distilled"}),
    StageRun("predictions", "student", ["inference.json"], {"section": "test"}, {}, "*_seg.nii.gz", seeded=False),
)  # fmt: skip


@dataclass(frozen=True)
class Extent:
    """Length of an uninterrupted run.

    Attributes:
        seconds: duration of the run.
        file_events: number of file events in its output folder.
    """

    seconds: float
    file_events: int


class Workplace:
    """A folder with the dataset and the output of every finished stage.

    Args:
        folder: folder of the outputs; created if missing.
        seed: seed of the dataset and of every stage.
    """

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.folder, self.seed = folder.resolve(), seed
        study = self.folder / "study"
        write_study(study, seed=seed, sections=SECTIONS, shape=(48, 48, 8), spacing=(7.2, 7.2, 20.0))
        save_task(plan_task(load_datalist(study / "datalist.json"), image_size=IMAGE_SIZE), study / "task.json")
        stages = [self._stored(stage) for stage in STAGES]
        names = [stage.name for stage in stages]
        self.store = stage_store.StageStore(self.folder / "references", stages, restart=names, runner=self._run)

    def reference(self, name: str) -> Path:
        """Returns the folder of a stage's uninterrupted run."""
        return self.store.folder(name)

    def bundle_run(self, stage: StageRun, output_dir: Path, **changes: Any) -> BundleRun:
        """Returns the run of a stage into a folder, with the uninterrupted outputs of the stages it needs.

        Args:
            stage: stage to run.
            output_dir: output folder of the run.
            changes: overrides of config ids, in addition to the stage's own settings.
        """
        stored = self._stored(stage)
        return BundleRun(
            stored.bundle, stage.configs, {**stored.settings, **stored.paths(), **changes, "output_dir": output_dir}
        )

    def _stored(self, stage: StageRun) -> stage_store.Stage:
        references = self.folder / "references"
        own = any(stage.bundle == other.name for other in STAGES)
        files = {name: self.folder / "study" / f"{name}.json" for name in ("datalist", "task")}
        paths = {**files, **{option: references / needed for option, needed in stage.inputs.items()}}
        needs = [*([stage.bundle] if own else []), *stage.inputs.values()]
        return stage_store.Stage(
            stage.name, stage.name, references / stage.bundle if own else BUNDLES / stage.bundle, stage.configs,
            {**stage.settings, **({"seed": self.seed} if stage.seeded else {})}, partial(dict, paths),
            {"data": {"seed": self.seed}}, needs, ("**/*",),
        )  # fmt: skip

    def run_reference(self, stage: StageRun) -> Extent:
        """Runs a stage without interruption, after the stages it needs, unless that was done before."""
        stored = next(found for found in self.store.stages if found.name == stage.name)
        for needed in STAGES:
            if needed.name in stored.needs:
                self.run_reference(needed)
        self.store.run_stage(stored)
        noted = self.store.state(stage.name)
        return Extent(noted["seconds"], noted["file_events"])

    def run_whole(self, stage: StageRun, output_dir: Path) -> None:
        """Runs a stage into an empty folder without interruption.

        Raises:
            RuntimeError: if it fails; with the end of its log.
        """
        shutil.rmtree(output_dir, ignore_errors=True)
        self._run(self.bundle_run(stage, output_dir))

    def _run(self, run: BundleRun) -> dict[str, Any]:
        name = run.output_dir.name
        ending = run_in_child(run, self.log(name))
        if ending.code:
            raise RuntimeError(f"Expected {name} to run, it ended with {ending.code}:\n{ending.log[-2000:]}")
        return {"seconds": round(ending.seconds, 2), "file_events": ending.file_events}

    def log(self, name: str) -> Path:
        """Returns the file that a run of this name writes its messages to."""
        return self.folder / "logs" / f"{name}.txt"

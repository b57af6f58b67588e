"""Which stages a pipeline has, with their settings and what each reads: the method, as a list."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tskd_monai.bundle.locations import BUNDLES
from tskd_monai.bundle.run import Stage
from tskd_monai.data.datalist import load_datalist
from tskd_monai.data.planning.content_hashes import ContentHashes
from tskd_monai.data.planning.files import PlanFiles
from tskd_monai.data.planning.record import load_record
from tskd_monai.data.task import Task
from tskd_monai.files.json_files import read_json

logger = logging.getLogger(__name__)

TEACHER_RESULTS = ("teacher.json", "task.json", "*.safetensors", "adapter/*", "decoder_adapter/*")
STUDENT_RESULTS = ("models/model.pt", "configs/task.json")
SCORED = {"teacher": "teacher", "student": "student", "scratch": "scratch", "self-training": "self_trained"}
"""Method of the report -> the stage whose model is scored on the test section."""


@dataclass(frozen=True)
class Study:
    """What a pipeline is run on.

    Attributes:
        datalist: file of the datalist.
        task_file: file of the task.
        task: the task in it.
        digests: section, and what of it, such as `training images`, to a hash of each entry's content, sorted.
        slices: number of training and unlabelled slices.
    """

    datalist: Path
    task_file: Path
    task: Task
    digests: Mapping[str, list[str]]
    slices: int

    def data(self, *names: str) -> dict[str, dict[str, Any]]:
        """Returns the inputs of a stage that reads the task and these parts of the datalist."""
        return {"data": {name: self.digests[name] for name in names}, **self.task_inputs}

    @property
    def task_inputs(self) -> dict[str, dict[str, Any]]:
        """Returns the inputs of a training stage that reads the task only."""
        return {"task.json": self.task.learned_fields}


def read_study(datalist: Path, task_file: Path, task: Task, hashes: ContentHashes) -> Study:
    """Returns a study with a hash of what each entry of its datalist holds.

    Args:
        datalist: file of the datalist.
        task_file: file of the task.
        task: the task in it.
        hashes: to read the files with.
    """
    sections = load_datalist(datalist)
    digests = {}
    for section in ("training", "validation", "test", "unlabeled"):
        entries = sections[section]
        digests[f"{section} images"] = sorted(hashes.of(entry["image"])[:16] for entry in entries)
        labelled = [entry for entry in entries if "label" in entry]
        digests[f"{section} labels"] = sorted(_labelled_digest(entry, hashes) for entry in labelled)
    record = load_record(PlanFiles(task_file, datalist.parent).record)
    slices = 0 if record is None else record.slices
    return Study(datalist.resolve(), task_file.resolve(), task, digests, slices)


def _labelled_digest(entry: Mapping[str, Any], hashes: ContentHashes) -> str:
    content = f"{hashes.of(entry['image'])} {hashes.of(entry['label'])} {entry.get('slices')}"
    return hashlib.sha256(content.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Plan:
    """What the user chose.

    Attributes:
        preset: overrides of each stage, checked.
        encoder: of the teacher.
        weights: of the encoder: a file, a hub id, `shipped` or `random`.
        weights_sha256: of the file; None where there is none.
        student: name of the student.
        seed: of every training run.
        device: such as `cuda:0`; None: the GPU if there is one.
        scratch_epochs: of the student from scratch; None: nothing is compared.
    """

    preset: Mapping[str, Any]
    encoder: str
    weights: str
    weights_sha256: str | None
    student: str
    seed: int
    device: str | None
    scratch_epochs: int | None


def pipeline_stages(output_dir: Path, study: Study, plan: Plan) -> list[Stage]:
    """Returns the stages of the method in their order, and those of the comparison where it is wanted.

    Args:
        output_dir: of the pipeline.
        study: to run on.
        plan: what the user chose.
    """
    builder = _Builder(output_dir, study, plan)
    stages = [*builder.teacher_and_transfer_set(), *builder.student("distilled", "student", "teacher", "")]
    methods = ["teacher", "student"]
    if plan.scratch_epochs is not None:
        stages += builder.comparison(plan.scratch_epochs)
        methods += ["scratch", "self-training"]
    return [*stages, *(builder.scoring(method) for method in methods)]


class _Builder:
    """Builds stages of one study and plan into a folder."""

    def __init__(self, output_dir: Path, study: Study, plan: Plan) -> None:
        self.output_dir, self.study, self.plan = output_dir, study, plan
        self.settings = {"seed": plan.seed}
        self.places: dict[str, Any] = {"datalist": study.datalist, "task": study.task_file}
        if plan.device:
            self.places["device"] = plan.device

    def teacher_and_transfer_set(self) -> list[Stage]:
        """Returns the stages up to the gates of the transfer set."""
        plan, study, preset = self.plan, self.study, self.plan.preset
        synthesis = BUNDLES / "diffusion_synthesis"
        sampling_places = {key: value for key, value in self.places.items() if key != "datalist"}
        return [
            Stage(
                "teacher", f"Teacher: {plan.encoder} with LoRA", BUNDLES / "teacher_lora", ["train.yaml"],
                {**self.settings, "encoder": plan.encoder, **preset["teacher"]},
                partial(dict, self.places, encoder_weights=plan.weights),
                {"encoder": {"weights": plan.weights_sha256 or plan.weights},
                 **study.data("training labels", "validation labels")},
                results=TEACHER_RESULTS,
            ),
            Stage(
                "diffusion", "Diffusion model", synthesis, ["train.yaml"], {**self.settings, **preset["diffusion"]},
                partial(dict, self.places), study.data("training images"), results=("pipeline/**/*",),
            ),
            Stage(
                "transfer_set", "Transfer set", synthesis, ["inference.yaml"], {**self.settings, **preset["sampling"]},
                partial(dict, sampling_places, diffusion_dir=self._folder("diffusion")), study.task_inputs,
                ["diffusion"], results=("images/*",),
            ),
            Stage(
                "gates", "Gates of the transfer set", synthesis, ["gate.yaml"], self.settings,
                partial(dict, self.places, teacher_dir=self._folder("teacher"),
                        transfer_set=self._folder("transfer_set")),
                study.data("training images", "unlabeled images", "validation images"), ["teacher", "transfer_set"],
                results=("gates.json",),
            ),
        ]  # fmt: skip

    def student(self, distilled: str, tuned: str, teacher: str, title: str) -> list[Stage]:
        """Returns distillation and fine-tuning.

        Args:
            distilled: name of the first stage.
            tuned: name of the second.
            teacher: name of the stage that made the teacher.
            title: in front of what the reader sees.
        """
        plan, study, preset = self.plan, self.study, self.plan.preset
        settings = {**self.settings, "student": plan.student}
        return [
            Stage(
                distilled, f"{title}Distillation", BUNDLES / "distillation", ["train.yaml"],
                {**settings, **preset["distillation"]}, partial(self._distillation_places, teacher),
                study.data("training images", "unlabeled images", "validation labels"), [teacher, "gates"],
                results=STUDENT_RESULTS,
            ),
            Stage(
                tuned, f"{title}Fine-tuning of the distilled student", BUNDLES / "distillation", ["fine_tune.yaml"],
                {**settings, **preset["fine_tuning"]},
                partial(dict, self.places, initial_student=self._folder(distilled)),
                study.data("training labels", "validation labels"), [distilled], results=STUDENT_RESULTS,
            ),
        ]  # fmt: skip

    def comparison(self, scratch_epochs: int) -> list[Stage]:
        """Returns the student from scratch, and the student that learns from that one instead of the teacher."""
        settings = {**self.settings, "student": self.plan.student, **self.plan.preset["scratch"]}
        scratch = Stage(
            "scratch", "The same student from scratch, for as many multiply-adds", BUNDLES / "distillation",
            ["fine_tune.yaml", "scratch.yaml"], {**settings, "max_epochs": scratch_epochs},
            partial(dict, self.places), self.study.data("training labels", "validation labels"),
            results=STUDENT_RESULTS,
        )  # fmt: skip
        return [scratch, *self.student("self_distilled", "self_trained", "scratch", "Self-training: ")]

    def scoring(self, method: str) -> Stage:
        """Returns the segmentation and scoring of the test section by one method's model, with the model's own task."""
        model = SCORED[method]
        own = method == "teacher"
        folder = self._folder(model)
        places = {key: value for key, value in self.places.items() if key != "task"}
        if own:
            places |= {"task": folder / "task.json", "teacher_dir": folder}
        return Stage(
            f"predictions_{model}", f"Test: {method}", BUNDLES / "teacher_lora" if own else folder,
            ["inference.yaml", "evaluate.yaml"] if own else ["inference.json", "evaluate.json"], {"section": "test"},
            partial(dict, places), {"data": {"test labels": self.study.digests["test labels"]}}, [model],
            results=("metrics.csv",), grows=("test labels",),
        )  # fmt: skip

    def _folder(self, name: str) -> Path:
        return self.output_dir / name

    def _distillation_places(self, teacher: str) -> dict[str, Any]:
        """Returns the places of distillation; where the gates accepted no image, the transfer set is left out."""
        places = {**self.places, "teacher_dir": self._folder(teacher)}
        if read_json(self._folder("gates") / "gates.json")["counts"]["accepted"]:
            return {**places, "transfer_set": self._folder("transfer_set")}
        logger.warning("    The gates rejected every synthetic image: the student learns from real images only.")
        return places

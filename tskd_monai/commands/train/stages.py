"""The stages of the method as a list, each with its settings and inputs."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tskd_monai.bundle.options import NONE
from tskd_monai.bundle.stage_store import Stage
from tskd_monai.commands.train.target_options import TargetOptions
from tskd_monai.data.datalist import load_datalist
from tskd_monai.data.drawn_structures import DRAWN
from tskd_monai.data.gates_file import read_gates
from tskd_monai.data.planning.files import PlanFiles
from tskd_monai.data.planning.record import load_record
from tskd_monai.data.task import Task
from tskd_monai.files.checksum import ContentHashes
from tskd_monai.files.shipped import BUNDLES

logger = logging.getLogger(__name__)

TEACHER, TARGETS = "teacher", "targets"
TEACHER_RESULTS = ("teacher.json", "task.json", "*.safetensors", "adapter/*", "decoder_adapter/*")
STUDENT_RESULTS = ("models/model.pt", "configs/task.json")
SCORED = {"teacher": "teacher", "student": "student", "scratch": "scratch", "self-training": "self_trained"}
"""Method of the report -> the stage whose model is scored on the test section."""
SCORING = "predictions_"
"""Beginning of the names of the stages that score a model."""


@dataclass(frozen=True)
class PlannedDataset:
    """A dataset with its task, and the content hashes by which the store of stages recognises it.

    Attributes:
        datalist: path of the datalist.
        task_file: path of the task.
        task: content of the task file.
        digests: section and kind, such as `training images`, to a sorted list of the entries' content hashes.
        slices: number of training and unlabelled slices.
    """

    datalist: Path
    task_file: Path
    task: Task
    digests: Mapping[str, list[str]]
    slices: int

    def inputs(self, *names: str) -> dict[str, dict[str, Any]]:
        """Returns the inputs of a stage that reads the task and these parts of the dataset."""
        return {"data": {name: self.digests[name] for name in names}, **self.task_inputs}

    def student_inputs(self, *names: str) -> dict[str, dict[str, Any]]:
        """Returns the inputs of a stage that trains a student on these parts of the dataset."""
        return {**self.inputs(*names), "task.json": self.task.student_fields}

    @property
    def task_inputs(self) -> dict[str, dict[str, Any]]:
        """The inputs of a stage that reads only the task."""
        return {"task.json": self.task.learned_fields}


def read_dataset(datalist: Path, task_file: Path, task: Task, hashes: ContentHashes) -> PlannedDataset:
    """Returns a dataset with a hash of the content of each entry.

    Args:
        datalist: path of the datalist.
        task_file: path of the task.
        task: content of the task file.
        hashes: content hashes, with their cache.
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
    return PlannedDataset(datalist.resolve(), task_file.resolve(), task, digests, slices)


def _labelled_digest(entry: Mapping[str, Any], hashes: ContentHashes) -> str:
    content = f"{hashes.of(entry['image'])} {hashes.of(entry['label'])} {entry.get('slices')}"
    content += f" {sorted(entry[DRAWN])}" if DRAWN in entry else ""
    return hashlib.sha256(content.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class PipelineOptions:
    """Options of the pipeline.

    Attributes:
        preset: checked overrides of each stage.
        encoder: name of the teacher's encoder.
        weights: weights of the encoder: a file, a hub id, `shipped` or `random`.
        weights_sha256: SHA-256 of the weights file; None without a file.
        student: name for `build_student`.
        seed: seed of every training run.
        device: device, such as `cuda:0`; None: the GPU if there is one.
        scratch_epochs: length of training from scratch, epochs; None: no comparison.
        synthesis: whether the transfer set includes synthetic images, if these pass their gates.
        use_failed: whether it includes them even if they fail.
        targets: what the student learns from besides the teacher.
    """

    preset: Mapping[str, Any]
    encoder: str
    weights: str
    weights_sha256: str | None
    student: str
    seed: int
    device: str | None
    scratch_epochs: int | None
    synthesis: bool = True
    use_failed: bool = False
    targets: TargetOptions = TargetOptions()

    @property
    def synthetic_images(self) -> int:
        """Number of images to sample."""
        return int(self.preset["sampling"].get("number", 0)) if self.synthesis else 0


def pipeline_stages(output_dir: Path, dataset: PlannedDataset, options: PipelineOptions) -> list[Stage]:
    """Returns the stages of the method in order, followed by those of the comparison if it is requested.

    Args:
        output_dir: folder of the pipeline.
        dataset: dataset with its task.
        options: options of the pipeline.
    """
    builder = StageBuilder(output_dir, dataset, options)
    synthesis = builder.transfer_set() if options.synthesis else []
    teachers = [builder.teacher(number) for number in range(options.targets.teachers)]
    targets = [builder.targets([teacher.name for teacher in teachers])] if options.targets.needs_stage else []
    stages = [*teachers, *synthesis, *targets, *builder.student("distilled", "student", "teacher", "")]
    methods = ["teacher", "student"]
    if options.scratch_epochs is not None:
        stages += builder.comparison(options.scratch_epochs)
        methods += ["scratch", "self-training"]
    return [*stages, *(builder.scoring(method) for method in methods)]


class StageBuilder:
    """Builds the stages for one dataset and its options."""

    def __init__(self, output_dir: Path, dataset: PlannedDataset, options: PipelineOptions) -> None:
        self.output_dir, self.dataset, self.options = output_dir, dataset, options
        self.settings = {"seed": options.seed}
        self.warned = False
        self.paths: dict[str, Any] = {"datalist": dataset.datalist, "task": dataset.task_file}
        if options.device:
            self.paths["device"] = options.device

    def teacher(self, number: int = 0, name: str | None = None) -> Stage:
        """Returns the stage that fine-tunes the foundation model with LoRA.

        Args:
            number: 0 for the teacher that is scored; others differ in the seed and serve only the targets.
            name: name of the stage; None: by the number.
        """
        options = self.options
        usual, title = (TEACHER, "Teacher") if not number else (f"{TEACHER}_{number + 1}", f"Teacher {number + 1}")
        return Stage(
            name or usual, f"{title}: {options.encoder} with LoRA", BUNDLES / "teacher_lora", ["train.yaml"],
            {"seed": options.seed + number, "encoder": options.encoder, **options.preset["teacher"]},
            partial(dict, self.paths, encoder_weights=options.weights),
            {"encoder": {"weights": options.weights_sha256 or options.weights},
             **self.dataset.inputs("training labels", "validation labels")},
            results=TEACHER_RESULTS,
        )  # fmt: skip

    def transfer_set(self) -> list[Stage]:
        """Returns the stages that generate synthetic images and select which of them are used."""
        dataset, preset = self.dataset, self.options.preset
        synthesis = BUNDLES / "diffusion_synthesis"
        judged = {**self.settings, "use_failed": True} if self.options.use_failed else self.settings
        sampling_paths = {key: value for key, value in self.paths.items() if key != "datalist"}
        return [
            Stage(
                "diffusion", "Diffusion model", synthesis, ["train.yaml"], {**self.settings, **preset["diffusion"]},
                partial(dict, self.paths), dataset.inputs("training images"), results=("pipeline/**/*",),
            ),
            Stage(
                "transfer_set", "Transfer set", synthesis, ["inference.yaml"], {**self.settings, **preset["sampling"]},
                partial(dict, sampling_paths, diffusion_dir=self._folder("diffusion")), dataset.task_inputs,
                ["diffusion"], results=("images/*",),
            ),
            Stage(
                "gates", "Gates of the transfer set", synthesis, ["gate.yaml"], judged,
                partial(dict, self.paths, teacher_dir=self._folder("teacher"),
                        transfer_set=self._folder("transfer_set")),
                dataset.inputs("training images", "unlabeled images", "validation images"), ["teacher", "transfer_set"],
                results=("gates.json",),
            ),
        ]  # fmt: skip

    def targets(self, teachers: Sequence[str]) -> Stage:
        """Returns the stage that averages the predictions of the teachers, and label maps, and refines them.

        Args:
            teachers: names of the stages that train the teachers.
        """
        own, dataset = self.options.targets, self.dataset
        return Stage(
            TARGETS, "Targets of the student", BUNDLES / "distillation", ["targets.yaml"],
            {"refiner": own.refiner} if own.refiner else {},
            partial(self._targets_paths, teachers),
            {"label maps": {"content": own.label_maps_sha256}, "refiner": {"weights": own.refiner_sha256},
             **dataset.inputs("training images", "unlabeled images", "validation labels")},
            [*teachers, *(["gates"] if self.options.synthesis else [])], results=("targets.json", "*.npz"),
        )  # fmt: skip

    def student(self, distilled: str, tuned: str, teacher: str, title: str) -> list[Stage]:
        """Returns distillation and fine-tuning.

        Args:
            distilled: name of the distillation stage.
            tuned: name of the fine-tuning stage.
            teacher: name of the stage that trained the teacher.
            title: prefix of both titles.
        """
        options, dataset, preset = self.options, self.dataset, self.options.preset
        settings = {**self.settings, "student": options.student}
        source = TARGETS if teacher == TEACHER and options.targets.needs_stage else teacher
        return [
            Stage(
                distilled, f"{title}Distillation", BUNDLES / "distillation", ["train.yaml"],
                {**settings, **preset["distillation"]}, partial(self._distillation_paths, source),
                dataset.student_inputs("training images", "unlabeled images", "validation labels"),
                [source, *(["gates"] if options.synthesis else [])],
                results=STUDENT_RESULTS,
            ),
            Stage(
                tuned, f"{title}Fine-tuning of the distilled student", BUNDLES / "distillation", ["fine_tune.yaml"],
                {**settings, **preset["fine_tuning"]},
                partial(dict, self.paths, initial_student=self._folder(distilled)),
                dataset.student_inputs("training labels", "validation labels"), [distilled], results=STUDENT_RESULTS,
            ),
        ]  # fmt: skip

    def comparison(self, scratch_epochs: int) -> list[Stage]:
        """Returns the student from scratch, and the student distilled from it instead of from the teacher."""
        scratch = self.scratch("scratch", scratch_epochs, "The same student from scratch, for as many multiply-adds")
        return [scratch, *self.student("self_distilled", "self_trained", "scratch", "Self-training: ")]

    def scratch(self, name: str, epochs: int, title: str) -> Stage:
        """Returns the stage that trains a student without a teacher."""
        settings = {**self.settings, "student": self.options.student, **self.options.preset["scratch"]}
        return Stage(
            name, title, BUNDLES / "distillation", ["fine_tune.yaml", "scratch.yaml"],
            {**settings, "max_epochs": epochs}, partial(dict, self.paths),
            self.dataset.student_inputs("training labels", "validation labels"), results=STUDENT_RESULTS,
        )  # fmt: skip

    def scoring(self, method: str, model: str | None = None, section: str = "test") -> Stage:
        """Returns the stage that segments and scores a section with one method's model and that model's task.

        Args:
            method: method, for display.
            model: name of the stage that trained the model; None: by the method.
            section: section of the datalist.
        """
        model = model or SCORED[method]
        own = method == "teacher"
        folder, labels = self._folder(model), f"{section} labels"
        paths = {key: value for key, value in self.paths.items() if key != "task"}
        if own:
            paths |= {"task": folder / "task.json", "teacher_dir": folder}
        return Stage(
            f"{SCORING}{model}", f"{section.capitalize()}: {method}", BUNDLES / "teacher_lora" if own else folder,
            ["inference.yaml", "evaluate.yaml"] if own else ["inference.json", "evaluate.json"], {"section": section},
            partial(dict, paths), {"data": {labels: self.dataset.digests[labels]}}, [model],
            results=("metrics.csv",), incremental=(labels,),
        )  # fmt: skip

    def _folder(self, name: str) -> Path:
        return self.output_dir / name

    def _targets_paths(self, teachers: Sequence[str]) -> dict[str, Any]:
        """Returns the input paths of the targets; embeddings are not kept, as finished images are not made again."""
        own = self.options.targets
        paths = {**self._transfer_paths(), "teacher_dirs": [str(self._folder(name)) for name in teachers]}
        given = {"label_maps": own.label_maps, "refiner_weights": own.refiner_weights}
        return {**paths, **{name: value for name, value in given.items() if value}, "embedding_dir": NONE}

    def _distillation_paths(self, source: str) -> dict[str, Any]:
        """Returns the input paths of distillation."""
        return {**self._transfer_paths(), "targets" if source == TARGETS else "teacher_dir": self._folder(source)}

    def _transfer_paths(self) -> dict[str, Any]:
        """Returns the paths of the transfer set, without synthetic images that failed their gates."""
        if not self.options.synthesis:
            return self.paths
        gates = read_gates(self._folder("gates"))
        if gates.is_used:
            return {**self.paths, "transfer_set": self._folder("transfer_set")}
        if not self.warned:
            logger.warning("    %s", gates.sentence)
        self.warned = True
        return self.paths

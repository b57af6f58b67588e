"""Expected duration of each stage, from its images and the multiply-adds of its network.

The constants fit the demo on two CPU cores; `bundle.time_left` corrects them by the speed of the user's machine.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, cast

import torch
from torch import nn

from tskd_monai.bundle.time_left import about
from tskd_monai.commands.train.effort import DECODER_OPTIONS, images_seen
from tskd_monai.commands.train.options import config_defaults, stage_options
from tskd_monai.commands.train.stages import SCORED, TARGETS, TEACHER, PipelineOptions, PlannedDataset
from tskd_monai.networks.cost import multiply_adds
from tskd_monai.networks.pretrained import RANDOM, build_encoder
from tskd_monai.networks.students import build_student
from tskd_monai.networks.teacher_builder import build_teacher

START = 6.5
"""Seconds that a stage takes besides its images: imports and checkpoints."""

PER_IMAGE = 0.004
"""Seconds to load and augment an image."""

MULTIPLY_ADDS_PER_SECOND = 3.5e10

TRAINING = 3
"""Cost of a forward and a backward pass, in forward passes."""

DIFFUSION_BLOCK = 360_000
"""Multiply-adds of the diffusion model in a forward pass, for each block of `patch_size` x `patch_size` pixels."""


def expected_seconds(dataset: PlannedDataset, options: PipelineOptions, section: str = "test") -> dict[str, float]:
    """Returns the expected duration of each stage, s.

    Args:
        dataset: dataset with its task.
        options: options of the pipeline.
        section: section that models are scored on.
    """
    durations = _Durations(dataset, options)
    return {name: START + seconds for name, seconds in {**durations.training(), **durations.scoring(section)}.items()}


SYNTHESIS = ("diffusion", "transfer_set", "gates")
"""The stages that a run without synthesis does not have."""


def synthesis_sentence(expected: Mapping[str, float], stages: Collection[str], on_cpu: bool) -> str:
    """Returns what synthesis will take, as a sentence; "" if none of its stages runs.

    Args:
        expected: expected duration of each stage, s.
        stages: names of the stages that run.
        on_cpu: whether they run on a CPU, for which the durations hold; for a GPU only their proportion is stated.
    """
    seconds = sum(expected[name] for name in SYNTHESIS if name in stages)
    if not seconds:
        return ""
    total = sum(expected[name] for name in stages)
    time = f"{about(seconds)} of {about(total)} on two cores" if on_cpu else f"{100 * seconds / total:.0f} % of the run"
    return f"Synthesis: {time}; its images are left out if they fail their gates. --synthesis off skips it."


class _Durations:
    """Seconds of the stages without their start.

    Attributes:
        teacher, student, diffusion: multiply-adds of a forward pass.
    """

    def __init__(self, dataset: PlannedDataset, options: PipelineOptions) -> None:
        self.preset, self.scratch_epochs = options.preset, options.scratch_epochs or 0
        self.slices, self.digests = dataset.slices, dataset.digests
        self.teacher, self.student = _networks(dataset, options)
        pixels = dataset.task.image_size[0] * dataset.task.image_size[1]
        self.diffusion = DIFFUSION_BLOCK * pixels / self._option("diffusion", "patch_size") ** 2
        self.synthetic, self.targets = options.synthetic_images, options.targets
        self.refiner = _refiner(options)

    def training(self) -> dict[str, float]:
        """Returns the seconds of every stage up to the trained models."""
        transfer = self.slices + self.synthetic
        tuning = self._training("fine_tuning", self.student)
        distillation = self._training("distillation", self.student)
        sampling = self.synthetic * self._option("sampling", "num_inference_steps") * self.diffusion
        return {
            **dict.fromkeys(self._teachers(), self._training("teacher", self.teacher)),
            **({TARGETS: self._targets(transfer)} if self.targets.needs_stage else {}),
            "diffusion": _seconds(images_seen(self.preset, "diffusion"), TRAINING * self.diffusion),
            "transfer_set": sampling / MULTIPLY_ADDS_PER_SECOND,
            "gates": _seconds(transfer, self.teacher),
            "distilled": distillation + _seconds(transfer, self.teacher),
            "student": tuning,
            "scratch": self._training("scratch", self.student, self.scratch_epochs) if self.scratch_epochs else 0.0,
            "self_distilled": distillation + _seconds(transfer, self.student),
            "self_trained": tuning,
        }

    def _teachers(self) -> list[str]:
        return [TEACHER, *(f"{TEACHER}_{number}" for number in range(2, self.targets.teachers + 1))]

    def _targets(self, images: int) -> float:
        """Returns the seconds of the targets of all images, those of the validation section included."""
        seen = images + self._images("validation")
        return _seconds(seen, self.targets.teachers * self.teacher + self.refiner)

    def scoring(self, section: str) -> dict[str, float]:
        """Returns the seconds of the stages that score a model on a section."""
        costs = {"teacher": self.teacher}
        return {
            f"predictions_{model}": _seconds(self._images(section), costs.get(model, self.student))
            for model in SCORED.values()
        }

    def _training(self, stage: str, network: float, epochs: int | None = None) -> float:
        """Returns the seconds of a training run with its validations.

        Args:
            stage: stage of the preset.
            network: multiply-adds of a forward pass.
            epochs: length of the run; None: as in the preset.
        """
        options = stage_options(self.preset, stage)
        validations = (epochs or options["max_epochs"]) // options["val_interval"]
        return _seconds(images_seen(self.preset, stage, epochs), TRAINING * network) + _seconds(
            validations * self._images("validation"), network
        )

    def _images(self, section: str) -> float:
        """Returns the number of slices of a section, if its cases have as many as those of the training section."""
        learned = len(self.digests["training images"]) + len(self.digests["unlabeled images"])
        return len(self.digests[f"{section} images"]) * self.slices / learned

    def _option(self, stage: str, name: str) -> Any:
        return stage_options(self.preset, stage)[name]


def _networks(dataset: PlannedDataset, options: PipelineOptions) -> tuple[int, int]:
    """Returns the multiply-adds of a forward pass of the teacher and the student."""
    task = dataset.task
    decoder = {name: value for name, value in options.preset["teacher"].items() if name in DECODER_OPTIONS}
    with torch.device("meta"):  # shapes without memory
        teacher = build_teacher(
            encoder=options.encoder, encoder_weights=RANDOM, image_size=task.image_size, num_classes=task.num_classes,
            tuning="decoder", **decoder,
        )  # fmt: skip
        student = build_student(options.student, task.student_channels, task.num_classes, task.image_size)
    channels = (task.channels, task.student_channels)
    seen, taken = ((1, number, *task.image_size) for number in channels)
    return multiply_adds(teacher, seen), multiply_adds(student, taken)


def _refiner(options: PipelineOptions) -> int:
    """Returns the multiply-adds of the refiner's image encoder; its prompts cost little beside it."""
    if options.targets.refiner is None:
        return 0
    size = config_defaults("distillation/configs/targets.yaml")["refiner_size"]
    with torch.device("meta"):
        encoder = build_encoder(options.targets.refiner, RANDOM, size)
    return multiply_adds(cast(nn.Module, encoder), (1, 3, size, size))


def _seconds(images: float, operations: float) -> float:
    """Returns the seconds for images that each take so many multiply-adds."""
    return images * (PER_IMAGE + operations / MULTIPLY_ADDS_PER_SECOND)

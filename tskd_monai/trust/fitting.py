"""Fits the quality file of a student on labelled patients and corrupted copies of their images."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from tskd_monai.data.datalist import load_datalist
from tskd_monai.data.drawn_structures import DRAWN
from tskd_monai.data.neighbours import with_neighbours
from tskd_monai.data.task import Task
from tskd_monai.files.checksum import file_sha256
from tskd_monai.networks.students import student_size
from tskd_monai.networks.weights_file import load_strictly, read_weights
from tskd_monai.trust.assessor import grid_spacing
from tskd_monai.trust.corruptions import CORRUPTIONS, corrupted
from tskd_monai.trust.dice_model import LEVEL, DiceModel, fit_dice
from tskd_monai.trust.quality_file import QUALITY_FILE, Quality, save_quality
from tskd_monai.trust.reference import Reference, fit_reference
from tskd_monai.trust.shape import Shape, largest_part, structure_shape
from tskd_monai.trust.signals import BATCH, CaseSignals, SignalCollector

logger = logging.getLogger(__name__)

Copy = tuple[str, CaseSignals, dict[str, float]]
"""Patient, signals and Dice of an image."""
Inferer = Callable[[Tensor, nn.Module], Tensor]
"""Volume (1, C, H, W, D) and network to logits (1, K, H, W, D)."""


def fit_quality(
    datalist: str | Path,
    transform: Callable[[Any], Any],
    network: nn.Module,
    student: str,
    inferer: Inferer,
    task: Task,
    checkpoint: str | Path,
    output_dir: str | Path,
    fold: int | None = None,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> Quality:
    """Writes `quality.json` for a student; returns its content.

    The reference is that of the training patients: shapes from their labels, or from the student's segmentations where
    only some slices are labelled. The Dice is predicted from corrupted copies of all completely labelled patients, and
    from the images of validation patients as they are; those of training patients, which the student has seen, are used
    as they are only if there is no validation patient.

    Args:
        datalist: datalist with the training and validation patients; no other section is read.
        transform: preprocessing of image and label.
        network: the student, images (B, C, H, W) to logits (B, K, H, W); its weights are loaded.
        student: name of the student, which states the layer whose features are compared.
        inferer: inferer over volumes.
        task: task of the student.
        checkpoint: file of the weights.
        output_dir: folder of the quality file.
        fold: fold of the datalist.
        device: device to run on.
        seed: seed of the corruptions.

    Raises:
        ValueError: with fewer than two training patients, or no patient that is completely labelled.
    """
    load_strictly(network, read_weights(Path(checkpoint)), f"the student {Path(checkpoint).name}")
    sections = load_datalist(datalist, fold)
    layer = student_size(student).feature_layer
    measure = Measurement(network.to(device).eval(), inferer, task, layer, torch.device(device))
    patients = measure_patients(sections, transform, measure, seed)
    reference = fit_reference(patients.cases, patients.labelled)
    quality = Quality(file_sha256(checkpoint), task.hash, layer, reference, _dice_model(reference, patients.copies))
    path = Path(output_dir) / QUALITY_FILE
    save_quality(quality, path)
    _log(quality, path)
    return quality


@dataclass(frozen=True)
class MeasuredPatients:
    """What a quality file is fitted on.

    Attributes:
        cases: signals of the training images.
        labelled: shape of each structure in the training labels, in the same order.
        copies: images from which the Dice is predicted.
    """

    cases: Sequence[CaseSignals]
    labelled: Sequence[Mapping[str, Shape]]
    copies: Sequence[Copy]


def measure_patients(
    sections: Mapping[str, Sequence[Mapping[str, Any]]],
    transform: Callable[[Any], Any],
    measure: Measurement,
    seed: int,
) -> MeasuredPatients:
    """Segments the training and validation patients, and corrupted copies of the completely labelled ones.

    Args:
        sections: sections of a datalist.
        transform: preprocessing of image and label.
        measure: segments an image.
        seed: seed of the corruptions.
    """
    generator = np.random.default_rng(seed)
    cases: list[CaseSignals] = []
    labelled: list[Mapping[str, Shape]] = []
    copies: list[Copy] = []
    for section in ("training", "validation"):
        for item in tqdm(sections[section], desc=f"Quality, {section}"):
            read = transform({key: item[key] for key in ("image", "label")})
            spacing = grid_spacing(read["image"])
            image, label = (read[key].as_tensor() for key in ("image", "label"))
            signals, dice = measure(image, label, spacing)
            # of others, only some slices or structures are labelled
            is_complete = not {"slices", DRAWN} & set(item) and bool((label >= 0).all())
            if section == "training":
                cases.append(signals)
                predicted = {name: found.shape for name, found in signals.structures.items()}
                labelled.append(_shapes(label, spacing, measure.task) if is_complete else predicted)
            if not is_complete:
                continue
            if section == "validation" or not sections["validation"]:
                copies.append((item["case"], signals, dice))
            copies += [
                (item["case"], *measure(*corrupted(name, image, label, generator), spacing)) for name in CORRUPTIONS
            ]
    return MeasuredPatients(cases, labelled, copies)


class Measurement:
    """Segments an image; returns its signals and the Dice of each structure that the image or the result has."""

    def __init__(self, network: nn.Module, inferer: Inferer, task: Task, layer: str, device: torch.device) -> None:
        self.network, self.inferer, self.task, self.layer, self.device = network, inferer, task, layer, device

    @torch.no_grad()
    def __call__(
        self, image: Tensor, label: Tensor, spacing: tuple[float, float, float]
    ) -> tuple[CaseSignals, dict[str, float]]:
        """Returns signals and Dice of an image (C, H, W, D) with its label (1, H, W, D)."""
        collector, predicted = SignalCollector(self.task, self.layer), []
        image = image.float().contiguous()
        for start in range(0, image.shape[-1], BATCH):
            batch = range(start, min(start + BATCH, image.shape[-1]))
            slices = with_neighbours(image, self.task.neighbours, batch)[None].to(self.device)
            predicted.append(collector.add(self.inferer(slices, self.network)[0].movedim(-1, 0).contiguous()))
        signals = collector.finish(image, spacing, self.network)
        return signals, self._dice(torch.cat(predicted).numpy(), label[0].movedim(-1, 0).numpy())

    def _dice(self, predicted: np.ndarray, label: np.ndarray) -> dict[str, float]:
        found = {}
        for number, (value, name) in enumerate(self.task.foreground.items(), start=1):
            mask, true = predicted == number, label == number
            if value in self.task.filtered:
                mask = largest_part(mask)
            if size := int(mask.sum()) + int(true.sum()):
                found[name] = 2 * int((mask & true).sum()) / size
        return found


def _shapes(label: Tensor, spacing: tuple[float, float, float], task: Task) -> dict[str, Shape]:
    label_map = label[0].movedim(-1, 0).numpy()
    return {
        name: structure_shape(label_map == number, spacing) for number, name in enumerate(task.foreground.values(), 1)
    }


def _dice_model(reference: Reference, copies: Sequence[Copy]) -> DiceModel:
    """Returns the regression over the structures of all copies."""
    rows, dice, patients = [], [], []
    for patient, signals, found in copies:
        distance = reference.features.distance(signals.descriptors)
        for name, value in found.items():
            rows.append(reference.row(name, signals.structures[name], distance))
            dice.append(value)
            patients.append(patient)
    return fit_dice(np.array(rows), np.array(dice), patients, len(copies))


def _log(quality: Quality, path: Path) -> None:
    dice = quality.dice
    logger.info("Quality of %d training patients: %s", quality.reference.patients, path)
    if dice.radius is None:
        logger.warning(
            "%d patients are too few for an interval of the predicted Dice at %.0f %%; from 9 on there is one.",
            dice.patients,
            100 * LEVEL,
        )

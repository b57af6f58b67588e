"""The stage that makes a folder of soft targets: average of the sources, refinement, measurement, report."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from tskd_monai.data.task import Task
from tskd_monai.distillation.refiner import Agreement, Refiner
from tskd_monai.distillation.target_cache import quantise_probabilities
from tskd_monai.distillation.target_images import TargetImage, TargetImages
from tskd_monai.distillation.target_sources import TargetSources, TeacherSource, describe
from tskd_monai.distillation.targets_folder import TargetsWriter, recipe_of
from tskd_monai.distillation.targets_report import overlap_counts, write_sheet, write_table
from tskd_monai.training.record import write_record

logger = logging.getLogger(__name__)


def write_targets(
    images: TargetImages,
    teachers: Sequence[TeacherSource],
    task: Task,
    output_dir: str | Path,
    refiner: Refiner | None = None,
    batch_size: int = 8,
    inputs: dict[str, str] | None = None,
) -> None:
    """Writes the target of each image, `targets.json`, and how good the targets are where labels are known.

    An interrupted run resumes with the missing images, to the same bytes: the sources always run on the same batches.

    Args:
        images: images of the stage.
        teachers: teachers to average; may be empty.
        task: task of the targets.
        output_dir: targets folder.
        refiner: refiner of the average; None: not refined.
        batch_size: images in one forward pass of a teacher.
        inputs: files for the record, by name.

    Raises:
        ValueError: when there is no source, the folder holds targets of another task or other sources, or two label
            maps are given for one image.
    """
    sources = TargetSources(teachers, images.label_maps, task.num_classes)
    recipe = recipe_of(task, sources.record, sources.feature_channels, None if refiner is None else refiner.record)
    writer = TargetsWriter(output_dir, recipe, task)
    stage = _Stage(writer, sources, refiner, task, batch_size, len(images.transfer) + len(images.measured))
    logger.info("Targets: %s%s.", "; ".join(map(describe, sources.record)), _refined_by(refiner))
    started = time.monotonic()
    computed = stage.fill(images.transfer, measured=False) + stage.fill(images.measured, measured=True)
    seconds = time.monotonic() - started
    keys, measured = ([writer.key(item.image) for item in group] for group in (images.transfer, images.measured))
    cases = [item.case for item in images.measured]
    table = write_table(Path(output_dir), [writer.measured[key] for key in measured], cases, task)
    write_sheet(Path(output_dir), images, stage.compare, [writer.measured[key] for key in measured], task)
    writer.finish(keys, measured)
    record = Path(output_dir) / "record.json"
    if computed or not record.is_file():  # the time of a run that only finds everything finished says nothing
        results = {"images": len(set(keys)), "measured": len(set(measured)), "seconds": round(seconds, 1), **table}
        write_record(record, "targets", recipe, inputs or {}, results)
    logger.info("Targets: %d images and %d measured ones, %d computed now.", len(keys), len(measured), computed)


class _Stage:
    """Makes targets batch by batch; arguments as of `write_targets`, `total` the number of all images."""

    def __init__(
        self,
        writer: TargetsWriter,
        sources: TargetSources,
        refiner: Refiner | None,
        task: Task,
        batch_size: int,
        total: int,
    ) -> None:
        self.writer, self.sources, self.refiner, self.task = writer, sources, refiner, task
        self.batch_size, self.total = batch_size, total

    def fill(self, items: Sequence[TargetImage], measured: bool) -> int:
        """Makes the missing targets, or measurements, of some images; returns how many."""
        keys = [self.writer.key(item.image) for item in items]
        _require_one_map(keys, items)
        first = {key: index for index, key in reversed(list(enumerate(keys)))}
        missing = {index for key, index in first.items() if not self.writer.has(key, measured)}
        if not missing:
            return 0
        self.writer.begin()
        starts = [start for start in range(0, len(items), self.batch_size) if missing & set(self._batch(start, items))]
        for start in tqdm(starts, desc="Measuring" if measured else "Making targets", unit="batch"):
            batch = self._batch(start, items)
            average, features = self._average([items[index] for index in batch])
            for place, index in enumerate(batch):
                if index in missing:
                    self._finish(items[index], keys[index], average[place], features[place], measured)
        return len(missing)

    def compare(self, item: TargetImage) -> tuple[Tensor, Tensor, dict[int, Agreement]]:
        """Returns the classes (H, W) of an image before and after refinement, and the agreement of each class."""
        average, _ = self._average([item])
        target, agreements = self._refined(item.image, self.writer.key(item.image), average[0])
        return average[0].argmax(dim=0), target.argmax(dim=0), agreements

    def _batch(self, start: int, items: Sequence[TargetImage]) -> range:
        return range(start, min(start + self.batch_size, len(items)))

    def _average(self, items: Sequence[TargetImage]) -> tuple[Tensor, Tensor]:
        return self.sources(torch.stack([item.image for item in items]).float(), [item.given for item in items])

    def _refined(self, image: Tensor, key: str, average: Tensor) -> tuple[Tensor, dict[int, Agreement]]:
        return (average, {}) if self.refiner is None else self.refiner(image, average, key, self.total)

    def _finish(self, item: TargetImage, key: str, average: Tensor, features: Tensor, measured: bool) -> None:
        target, agreements = self._refined(item.image, key, average)
        names = [label.name for label in self.task.labels]
        refined = {
            names[class_]: {"iou": round(found.iou, 6), "weight": round(found.weight, 6)}
            for class_, found in agreements.items()
        }
        if measured and item.label is not None:
            maps = (average.argmax(dim=0), target.argmax(dim=0), item.label[0].long())
            self.writer.add_measured(key, {"overlap": overlap_counts(*maps, names), "refined": refined})
            return
        used = list(range(len(self.sources.teachers) + (item.given is not None)))
        quantised = quantise_probabilities(target[None], features[None])[0]
        self.writer.add(item.image, quantised, {"sources": used, "refined": refined})


def _require_one_map(keys: Sequence[str], items: Sequence[TargetImage]) -> None:
    """Raises ValueError when an image occurs twice with different label maps."""
    maps: dict[str, Tensor] = {}
    for key, item in zip(keys, items, strict=True):
        if item.given is not None and not torch.equal(maps.setdefault(key, item.given), item.given):
            raise ValueError(
                "Expected one label map for an image, found two different ones for two equal slices of the dataset; "
                "leave one of the cases out."
            )


def _refined_by(refiner: Refiner | None) -> str:
    if refiner is None:
        return ""
    lower, upper = refiner.settings.iou_bounds
    rows, columns = refiner.image_size
    return f"; refined by {refiner.name} at {rows} x {columns} pixels, IoU bounds {lower:g} and {upper:g}"

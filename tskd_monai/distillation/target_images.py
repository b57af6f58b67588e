"""The images that get a target: the transfer set, and labelled images on which the targets are measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai.transforms import Compose
from torch import Tensor

from tskd_monai.data.datalist import load_datalist, transfer_images
from tskd_monai.data.drawn_structures import DRAWN
from tskd_monai.data.slices import PreparedImageDataset, SliceDataset
from tskd_monai.data.task import Task
from tskd_monai.data.transfer_set import load_used_images
from tskd_monai.distillation.label_map_files import content_sha256, find_label_maps, require_all
from tskd_monai.distillation.target_sources import LabelMaps, check_confidence
from tskd_monai.transforms.pipelines import training_preprocessing


@dataclass(frozen=True)
class TargetImage:
    """A slice or 2D image.

    Attributes:
        image: (C, H, W) in [0, 1], preprocessed.
        given: classes of its label map from `--label_maps`, (1, H, W); None: none.
        label: classes of its reference, (1, H, W); None for images of the transfer set.
        case: case of its entry.
    """

    image: Tensor
    given: Tensor | None = None
    label: Tensor | None = None
    case: str = ""


@dataclass(frozen=True)
class TargetImages:
    """All images of the stage.

    Attributes:
        transfer: images that get a target.
        measured: labelled images on which the targets are compared with the reference.
        label_maps: record of the label maps; None without them.
    """

    transfer: Sequence[TargetImage]
    measured: Sequence[TargetImage]
    label_maps: LabelMaps | None


def load_target_images(
    datalist: str | Path,
    task: Task,
    preprocessing: Compose,
    transfer_set: str | Path | None = None,
    fold: int | None = None,
    label_maps: str | Path | None = None,
    label_confidence: float = 0.9,
    has_teacher: bool = True,
    measure: str | None = "validation",
) -> TargetImages:
    """Returns the images of the transfer set, as `transfer_dataset` has them, and those of a labelled section.

    Args:
        datalist: path of the dataset's `datalist.json`.
        task: task; a transfer set of another task is refused.
        preprocessing: transform of a volume's `image`.
        transfer_set: folder with `transfer_set.json`; None: only real images.
        fold: fold of the datalist.
        label_maps: folder of label maps, one for each real image; None: none.
        label_confidence: probability of a label map's class.
        has_teacher: whether a teacher is among the sources; without one, synthetic images have no source.
        measure: section with labels that neither the teachers nor a student are trained on; None: nothing is measured.

    Raises:
        FileNotFoundError: when a file is missing.
        ValueError: when a label map is missing, ambiguous, or not on the grid of its image; names the file.
    """
    confidence = check_confidence(label_confidence, task.num_classes)
    if label_maps is not None and transfer_set is not None and not has_teacher:
        raise ValueError(
            "Expected a teacher for the synthetic images, which have no label map; give --teacher_dirs, or leave out "
            "--transfer_set."
        )
    entries = transfer_images(datalist, fold)
    given = None if label_maps is None else require_all(find_label_maps(label_maps, entries), entries, label_maps)
    transfer = _slices(entries, given, task, preprocessing)
    synthetic = PreparedImageDataset(load_used_images(transfer_set, task.hash))
    transfer += [TargetImage(image) for image in synthetic.arrays("image")]
    source = None if given is None else LabelMaps(Path(str(label_maps)), confidence, content_sha256(given))
    return TargetImages(transfer, _measured(datalist, task, fold, label_maps, measure), source)


def _slices(
    entries: Sequence[Mapping[str, Any]], given: Sequence[Path] | None, task: Task, preprocessing: Compose
) -> list[TargetImage]:
    if given is None:
        return [TargetImage(image) for image in SliceDataset(entries, preprocessing, keys=("image",)).arrays("image")]
    paired = [{**entry, "label": str(path)} for entry, path in zip(entries, given, strict=True)]
    dataset = SliceDataset(paired, training_preprocessing(task))
    return [TargetImage(*pair) for pair in zip(dataset.arrays("image"), dataset.arrays("label"), strict=True)]


def _measured(
    datalist: str | Path, task: Task, fold: int | None, label_maps: str | Path | None, section: str | None
) -> list[TargetImage]:
    """Returns the slices of a labelled section; with label maps, of its cases that have one."""
    if section is None:
        return []
    entries = load_datalist(datalist, fold)[section]
    paths = [None] * len(entries) if label_maps is None else find_label_maps(label_maps, entries)
    found = []
    for entry, path in zip(entries, paths, strict=True):
        if label_maps is not None and path is None:
            continue
        labelled = SliceDataset([entry], training_preprocessing(task))
        maps: Sequence[Tensor | None] = [None] * len(labelled)
        if path is not None:
            complete = {**{key: value for key, value in entry.items() if key != DRAWN}, "label": str(path)}
            given = SliceDataset([complete], training_preprocessing(task))
            maps = given.arrays("label")
        images, labels = labelled.arrays("image"), labelled.arrays("label")
        found += [TargetImage(*item, case=str(entry["case"])) for item in zip(images, maps, labels, strict=True)]
    return found

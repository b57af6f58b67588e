"""Measurements of a dry run: the cases of each section, and the time and memory of a training step."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
import torch
from ignite.engine import Engine, Events
from monai.data.utils import list_data_collate
from monai.engines import IterationEvents, PrepareBatch, SupervisedTrainer
from monai.engines.utils import PrepareBatchDefault
from monai.inferers.inferer import Inferer
from torch import nn
from tqdm import tqdm

from tskd_monai.data.task import Task
from tskd_monai.files.redaction import redact_paths

STEPS = 3  # the first one warms up
Preprocessing = Callable[[Mapping[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True)
class CaseSurvey:
    """Totals over the cases of a section.

    Attributes:
        cases: number of entries, readable or not.
        slices: number of slices of the readable cases that training uses.
        held_bytes: size of their images and labels in memory.
        class_voxels: labelled voxels of each network class, (K,); None when no labels are read.
        class_slices: slices that contain each class, (K,).
        class_cases: cases that contain each class, (K,).
        unreadable: case and error message of each entry that cannot be read.
    """

    cases: int
    slices: int
    held_bytes: int
    class_voxels: np.ndarray | None
    class_slices: np.ndarray
    class_cases: np.ndarray
    unreadable: tuple[str, ...]


def survey_cases(entries: Sequence[Mapping[str, Any]], preprocessing: Preprocessing, task: Task) -> CaseSurvey:
    """Reads the cases of a section one by one, as training does, and reports those that cannot be read.

    Args:
        entries: entries of a section of the datalist; of an entry with `slices`, only these are counted.
        preprocessing: transform from an entry to arrays (C, H, W, D), `image` and optionally `label` as network
            classes.
        task: task with the number of classes.
    """
    slices = held_bytes = 0
    shown = {name: np.zeros(task.num_classes, dtype=np.int64) for name in ("voxels", "slices", "cases")}
    labelled, unreadable = False, []
    for entry in tqdm(entries, desc="Reading", unit="case"):
        try:
            arrays = _read(entry, preprocessing)
        except Exception as error:  # any error of a reader is a finding
            paths = [entry[key] for key in ("image", "label") if entry.get(key)]
            unreadable.append(f"case {entry.get('case')}: {redact_paths(_reason(error), paths)}")
            continue
        slices += arrays["image"].shape[-1]
        held_bytes += sum(array.nbytes for array in arrays.values())
        if "label" in arrays:
            labelled = True
            counts = _class_counts(arrays["label"], task.num_classes)
            shown["voxels"] += counts.sum(axis=1)
            shown["slices"] += (counts > 0).sum(axis=1)
            shown["cases"] += (counts > 0).any(axis=1)
    voxels = shown["voxels"] if labelled else None
    return CaseSurvey(len(entries), slices, held_bytes, voxels, shown["slices"], shown["cases"], tuple(unreadable))


def _read(entry: Mapping[str, Any], preprocessing: Preprocessing) -> dict[str, np.ndarray]:
    """Returns the arrays (C, H, W, D) of an entry's slices."""
    item = preprocessing(dict(entry))
    arrays = {key: np.asarray(item[key]) for key in ("image", "label") if hasattr(item.get(key), "shape")}
    depth = arrays["image"].shape[-1]
    chosen = list(entry.get("slices", range(depth)))
    if any(not 0 <= index < depth for index in chosen):
        raise ValueError(f"Expected slices of 0 to {depth - 1}, found {chosen}.")
    return {key: array[..., chosen] for key, array in arrays.items()}


def _class_counts(label: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns the known voxels of each class on each slice, (K, D), of a label (1, H, W, D)."""
    planes = np.moveaxis(label[0], -1, 0).astype(np.int64)
    return np.stack([np.bincount(plane[plane >= 0], minlength=num_classes)[:num_classes] for plane in planes], axis=1)


def _reason(error: BaseException) -> str:
    """Returns the message of the original error: MONAI wraps the errors of transforms."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error) or type(error).__name__


@dataclass(frozen=True)
class Trial:
    """Time and memory of a training step.

    Attributes:
        seconds: duration of the fastest step after the first.
        process_bytes: peak memory of the process: imports, networks and a step, without the images.
        gpu_bytes: peak memory of tensors on the GPU; None on a CPU.
        trained_bytes: size of the trainable weights.
    """

    seconds: float
    process_bytes: int
    gpu_bytes: int | None
    trained_bytes: int


def noise_slices(task: Task, number: int, neighbours: int = 0, seed: int = 0) -> list[dict[str, Any]]:
    """Returns items in the form of `SliceDataset`: `image` (C, H, W) in [0, 1], `label` (1, H, W), `slice`, `position`.

    Args:
        task: task with channels, image size and classes.
        number: number of slices.
        neighbours: slices on each side that are further channels.
        seed: seed of the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    items: list[dict[str, Any]] = []
    for index in range(number):
        image = torch.rand(task.channels * (2 * neighbours + 1), *task.image_size, generator=generator)
        label = torch.randint(0, task.num_classes, (1, *task.image_size), generator=generator).float()
        items.append({"image": image, "label": label, "slice": index, "position": 0.5})
    return items


def noise_batch(
    task: Task, batch_size: int, augmentation: Callable[[Any], Any] | None = None, neighbours: int = 0
) -> dict[str, Any]:
    """Returns a batch of noise slices, augmented as in training.

    Args:
        task: task with channels, image size and classes.
        batch_size: number of slices.
        augmentation: transform of a slice; None: no augmentation.
        neighbours: slices on each side that are further channels.
    """
    return collate(noise_slices(task, batch_size, neighbours), augmentation)


def collate(items: Sequence[Mapping[str, Any]], augmentation: Callable[[Any], Any] | None) -> dict[str, Any]:
    """Returns a batch of items, each augmented first."""
    return dict(list_data_collate([dict(item) if augmentation is None else augmentation(dict(item)) for item in items]))


def trial_step(
    batch: Mapping[str, Any],
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_function: Callable[..., torch.Tensor],
    inferer: Inferer,
    device: torch.device | str,
    prepare_batch: PrepareBatch | None = None,
) -> Trial:
    """Trains for a few steps on one batch and measures them; this changes the weights of the network.

    Args:
        batch: batch as the data loader yields it.
        network: network on `device`.
        optimizer: optimiser of the network's parameters.
        loss_function: loss of prediction and target.
        inferer: runs the network.
        device: device to train on.
        prepare_batch: splits a batch into inputs and target; None: MONAI's default.
    """
    device = torch.device(device)
    watch = _Watch()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    SupervisedTrainer(
        device=device,
        max_epochs=STEPS,
        train_data_loader=[batch],
        network=network,
        optimizer=optimizer,
        loss_function=loss_function,
        inferer=inferer,
        prepare_batch=prepare_batch or PrepareBatchDefault(),
        train_handlers=[watch],
        decollate=False,
    ).run()
    trained = sum(p.numel() * p.element_size() for p in network.parameters() if p.requires_grad)
    gpu = torch.cuda.max_memory_reserved(device) if device.type == "cuda" else None
    return Trial(min(watch.seconds[1:]), watch.process_bytes, gpu, trained)


class _Watch:
    """Measures time and memory at the events of MONAI's trainer."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.process_bytes = 0
        self._process, self._started = psutil.Process(), 0.0

    def attach(self, engine: Engine) -> None:
        """Measures the steps of this trainer."""
        engine.add_event_handler(Events.ITERATION_STARTED, self._start)
        # Memory peaks after the loss, or later when gradients and optimiser state are allocated.
        for event in (IterationEvents.LOSS_COMPLETED, IterationEvents.BACKWARD_COMPLETED, Events.ITERATION_COMPLETED):
            engine.add_event_handler(event, self._measure_memory)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._stop)

    def _start(self, engine: Engine) -> None:
        self._started = time.monotonic()

    def _measure_memory(self, engine: Engine) -> None:
        self.process_bytes = max(self.process_bytes, self._process.memory_info().rss)

    def _stop(self, engine: Engine) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds.append(time.monotonic() - self._started)

"""Checkpoints that survive a kill at any moment, and exact resumption of training runs."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events

from tskd_monai.files.atomic import atomic_path, require_writable
from tskd_monai.former_names import former_components
from tskd_monai.networks.weights_file import load_torch_file

logger = logging.getLogger(__name__)


class Stateful(Protocol):
    """Protocol of the objects that a checkpoint can hold."""

    def state_dict(self) -> dict[str, Any]:
        """Returns tensors, numbers, strings, lists and dictionaries."""
        ...

    def load_state_dict(self, state_dict: Any) -> Any:
        """Restores what `state_dict` returned."""
        ...


def save_checkpoint(content: Any, path: str | Path) -> None:
    """Saves with `torch.save`, atomically; the same content gives the same bytes.

    It saves to a file object, because torch writes the name of a path, here a temporary one, into the file.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        torch.save(content, file)


def load_checkpoint(path: str | Path) -> Any:
    """Returns the content of a checkpoint on the CPU; only tensors and plain containers are loaded.

    Raises:
        FileNotFoundError: when the file does not exist.
        ValueError: when the file cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"Expected a checkpoint at {path}, found none.")
    try:
        return load_torch_file(path)
    except ValueError as error:
        raise ValueError(f"Expected a readable checkpoint at {path}: {error} Remove it to start again.") from error


class BestCheckpoint:
    """Saves the weights with the best validation metric, of equal ones the first.

    Attach it to the validator, and add it to `EpochCheckpoint` so that a resumed run knows the best metric so far.

    Args:
        path: path of the file with the network's state dict.
        network: module or `TrainableWeights` whose weights are saved.
        metric_name: key in the validator's metrics; larger is better.
    """

    def __init__(self, path: str | Path, network: Stateful, metric_name: str = "val_mean_dice") -> None:
        self.path, self.network, self.metric_name = Path(path), network, metric_name
        self.best_metric: float | None = None
        self.best_epoch = 0

    def attach(self, engine: Engine) -> None:
        """Saves at the end of each run of this validator."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Saves the weights when the metric has improved."""
        metric = float(engine.state.metrics[self.metric_name])
        if self.best_metric is None or math.isnan(self.best_metric) or metric > self.best_metric:
            self.best_metric, self.best_epoch = metric, int(engine.state.epoch)
            if idist.get_rank():
                return
            save_checkpoint(self.network.state_dict(), self.path)

    def state_dict(self) -> dict[str, Any]:
        """Returns the best metric and its epoch."""
        return {"best_metric": self.best_metric, "best_epoch": self.best_epoch}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self.best_metric, self.best_epoch = state_dict["best_metric"], state_dict["best_epoch"]


class EpochCheckpoint:
    """Saves the whole state of a training run after each epoch, and resumes from it at the start.

    Attach it after the validation handler, and `Resume` before. With `ReseedEachEpoch`, a run that was killed at any
    moment and resumed ends with the same weights as an uninterrupted one, bit for bit on one CPU with the same number
    of workers. With several processes, the first one writes.

    Args:
        path: path of the checkpoint, for example `last.pt`.
        save_dict: objects to save by name: network, optimiser, scheduler, EMA, history, …
        task_hash: hash of the task; a checkpoint of another task is refused.
        resume: whether to resume from `path` where it exists.
        run: JSON values that identify the training run, such as its images; a checkpoint of another run is ignored with
            a warning, and training starts at the first epoch. None: every checkpoint of the task is resumed.
        until_completed: whether the checkpoint is removed when training completes, so that only an interrupted run
            resumes. Otherwise a completed run that is started again ends at once.
    """

    def __init__(
        self,
        path: str | Path,
        save_dict: Mapping[str, Stateful],
        task_hash: str,
        resume: bool = True,
        run: Any = None,
        until_completed: bool = False,
    ) -> None:
        self.path, self.save_dict, self.task_hash, self.resume = Path(path), dict(save_dict), task_hash, resume
        self.run_hash = None if run is None else hashlib.sha256(json.dumps(run, default=str).encode()).hexdigest()
        self.until_completed = until_completed

    def attach(self, engine: Engine) -> None:
        """Saves after each epoch of this trainer."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)
        if self.until_completed:
            engine.add_event_handler(Events.COMPLETED, self._remove)

    def _remove(self, engine: Engine) -> None:
        if idist.get_rank() == 0:
            self.path.unlink(missing_ok=True)

    def save(self, engine: Engine) -> None:
        """Writes the checkpoint.

        Raises:
            ValueError: when a number is not finite; the previous checkpoint is kept.
        """
        if idist.get_rank():
            return
        content: dict[str, Any] = {name: item.state_dict() for name, item in self.save_dict.items()}
        if (name := first_not_finite(content)) is not None:
            raise ValueError(
                f"{name} holds NaN or infinity after epoch {engine.state.epoch}, which is not saved: {self.path.name} "
                "is that of the last good epoch. Lower --learning_rate or look for damaged images."
            )
        content["progress"] = {"epoch": engine.state.epoch, "iteration": engine.state.iteration}
        save_checkpoint({**content, "task_hash": self.task_hash, "run_hash": self.run_hash}, self.path)

    def load(self, engine: Engine) -> None:
        """Resumes from the checkpoint of this run, if one exists.

        Raises:
            OSError: when its folder is not writable.
            ValueError: when it is of another task, or lacks an object of `save_dict`.
        """
        if idist.get_rank() == 0:
            require_writable(self.path.parent)
        if not self.resume or not self.path.is_file():
            return
        content = load_checkpoint(self.path)
        if content.get("task_hash") != self.task_hash:
            raise ValueError(
                f"{self.path} was trained for another task: expected task hash {self.task_hash[:12]}, found "
                f"{str(content.get('task_hash'))[:12]}. Choose another --output_dir, or remove the checkpoint."
            )
        if content.get("run_hash") != self.run_hash:
            logger.warning("%s is of a run on other images or settings; training starts at epoch 1.", self.path.name)
            return
        missing = set(self.save_dict) - set(content)
        if missing:
            raise ValueError(f"{self.path}: expected {sorted(self.save_dict)}, found no {sorted(missing)}.")
        for name, item in self.save_dict.items():
            item.load_state_dict(content[name])
        engine.state.epoch = content["progress"]["epoch"]
        engine.state.iteration = content["progress"]["iteration"]
        logger.info("Resuming after epoch %d, from %s.", engine.state.epoch, self.path.name)


def first_not_finite(content: Any, name: str = "") -> str | None:
    """Returns the name of the first tensor in nested content that holds NaN or infinity, such as `network.weight`."""
    if isinstance(content, torch.Tensor):
        return None if content.isfinite().all() else name
    items: Any = ()
    if isinstance(content, Mapping):
        items = content.items()
    elif isinstance(content, (list, tuple)):
        items = enumerate(content)
    found = (first_not_finite(item, f"{name}.{key}" if name else str(key)) for key, item in items)
    return next((name for name in found if name is not None), None)


class Resume:
    """Resumes from an `EpochCheckpoint` when training starts; attach it before handlers that read the network then.

    Args:
        checkpoint: checkpoint to resume from.
    """

    def __init__(self, checkpoint: EpochCheckpoint) -> None:
        self.checkpoint = checkpoint

    def attach(self, engine: Engine) -> None:
        """Loads the checkpoint when this trainer starts."""
        engine.add_event_handler(Events.STARTED, self.checkpoint.load)


class TrainableWeights:
    """The trainable weights of a network, which suffice for the checkpoint of a frozen foundation model.

    Args:
        network: network whose parameters with `requires_grad` are saved.
    """

    def __init__(self, network: torch.nn.Module) -> None:
        self.network = network

    def _parameters(self) -> dict[str, torch.nn.Parameter]:
        return {name: value for name, value in self.network.named_parameters() if value.requires_grad}

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Returns each trainable parameter by name."""
        return {name: value.detach() for name, value in self._parameters().items()}

    def load_state_dict(self, state_dict: Mapping[str, torch.Tensor]) -> None:
        """Copies the weights into the network.

        Raises:
            ValueError: when names or shapes differ from this network's trainable parameters.
        """
        parameters = self._parameters()
        if set(parameters) != set(state_dict):
            odd = sorted(set(parameters) ^ set(state_dict))
            raise ValueError(
                f"Expected the checkpoint of a network built alike; these weights are on one side: {odd[:5]}."
            )
        for name, value in parameters.items():
            if value.shape != state_dict[name].shape:  # copy_ would broadcast a LoRA of rank 1
                found = tuple(state_dict[name].shape)
                raise ValueError(
                    f"Expected the checkpoint of a network built alike: {name} is {tuple(value.shape)}, found {found}."
                )
        with torch.no_grad():
            for name, value in parameters.items():
                value.copy_(state_dict[name])


__getattr__ = former_components(__name__)

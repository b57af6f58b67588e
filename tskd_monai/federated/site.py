"""One site: the bundle's own training config, one epoch a round, from the weights of the server."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from tskd_monai.bundle.run import config_files
from tskd_monai.data.datalist import load_datalist
from tskd_monai.data.task import Task, load_task, save_task
from tskd_monai.federated.settings import KINDS, SITE_OPTIONS, FederationSettings
from tskd_monai.federated.update import SiteUpdate, checked_update
from tskd_monai.federated.weights import Arrays, load_arrays, shapes_of, to_arrays, trained_tensors
from tskd_monai.files.shipped import BUNDLES

VALIDATION_DATA, ABSENT_CLASSES = "validate#dataset#data", "train#sampler#absent"


class SiteTraining:
    """The training run of one site.

    A round depends on the received weights and the number of the round only: the optimiser starts without moments, and
    the seeds and the learning rate are those of the round. So a site that was killed, or joins late, needs no state.

    Args:
        federation: settings of the federation.
        site: settings of the site, see `site_settings`.
        task: common task of all sites.

    Raises:
        ValueError: if an earlier run in the output folder had another task, or the site's data do not fit the task.
    """

    def __init__(self, federation: FederationSettings, site: Mapping[str, Any], task: Task) -> None:
        from monai.bundle import ConfigWorkflow  # takes seconds

        self.federation = federation
        kind = KINDS[federation.kind]
        datalist = load_datalist(site["datalist"], site.get("fold"))
        paths = {name: value for name, value in site.items() if name in (*SITE_OPTIONS, *kind.paths)}
        overrides = {
            **federation.overrides(),
            **paths,
            "task": str(_common_task(task, Path(site["output_dir"]))),
            "bundle_root": str(BUNDLES / kind.bundle),
            **({} if datalist["validation"] else {VALIDATION_DATA: []}),
            **({} if federation.kind == "distillation" else {ABSENT_CLASSES: "warn"}),  # other sites have them
        }
        self.workflow = ConfigWorkflow(
            config_file=[str(path) for path in config_files(BUNDLES / kind.bundle, kind.configs)],
            meta_file=None,
            logging_file=False,
            workflow_type="train",
            **overrides,
        )
        self.workflow.initialize()
        self.trainer = self._part("train#trainer")
        self.tensors = trained_tensors(self.trainer.network)
        self.evaluator = self._part("validate#evaluator") if datalist["validation"] else None
        self.cases = len(datalist["validation"])
        self.slices = len(self._part("train#dataset"))
        self.history = self._part("train#history")
        self.initial_optimizer = copy.deepcopy(self._part("train#optimizer").state_dict())

    def _part(self, name: str) -> Any:
        return self.workflow.parser.get_parsed_content(name)

    def start(self) -> SiteUpdate:
        """Returns the initial weights of the network, drawn from the seed."""
        return self._checked(to_arrays(self.tensors), {})

    def train(self, number: int, weights: Arrays) -> SiteUpdate:
        """Returns the weights after a round.

        Args:
            number: number of the round, from 0.
            weights: weights from the server.

        Raises:
            ValueError: if the weights are not those of this network, or training diverged.
        """
        validated = number and number % self.federation.val_interval == 0
        numbers = self.validate(weights).numbers if validated else {}
        load_arrays(self.tensors, weights)
        optimizer, scheduler = self._part("train#optimizer"), self._part("train#lr_scheduler")
        rewind(optimizer, scheduler, self.initial_optimizer, number * self.federation.steps)
        self._continue_history(number)
        state = self.trainer.state
        state.epoch, state.iteration = number, number * self.federation.steps
        state.max_epochs = number + 1
        self.trainer.run()
        numbers = {**numbers, "slices": self.slices, "train_loss": self.history.rows[-1]["train_loss"]}
        return self._checked(to_arrays(self.tensors, self.federation.transport), numbers)

    def validate(self, weights: Arrays) -> SiteUpdate:
        """Returns the mean Dice of weights from the server over this site's validation cases, if it has any."""
        if self.evaluator is None:
            return SiteUpdate({}, {})
        load_arrays(self.tensors, weights)
        self.evaluator.run()
        dice = float(self.evaluator.state.metrics["val_mean_dice"])
        return checked_update(SiteUpdate({}, {"val_mean_dice": dice, "val_cases": self.cases}), {})

    def close(self) -> None:
        """Releases the output folder."""
        self.workflow.finalize()

    def _checked(self, weights: Arrays, numbers: dict[str, float]) -> SiteUpdate:
        return checked_update(SiteUpdate(weights, numbers), shapes_of(self.tensors))

    def _continue_history(self, number: int) -> None:
        """Keeps the lines of the rounds before this one, which an earlier process may have written."""
        if self.history.path.is_file():
            rows = [json.loads(line) for line in self.history.path.read_text(encoding="utf-8").splitlines()]
            self.history.load_state_dict({"rows": [row for row in rows if row["epoch"] <= number]})


def rewind(optimizer: Optimizer, scheduler: LRScheduler, initial: dict[str, Any], step: int) -> None:
    """Puts the optimiser at a step of the whole run: no moments, and the learning rate of that step.

    Args:
        optimizer: optimiser of the site.
        scheduler: its schedule, a function of the step.
        initial: state of the optimiser before its first step.
        step: number of steps before this one.
    """
    optimizer.load_state_dict(copy.deepcopy(initial))
    scheduler.last_epoch = step
    for group, rate in zip(optimizer.param_groups, _rates(scheduler, step), strict=True):
        group["lr"] = rate


def _rates(scheduler: LRScheduler, step: int) -> list[float]:
    assert isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR)
    return [float(base) * factor(step) for base, factor in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)]


def _common_task(task: Task, folder: Path) -> Path:
    """Writes the common task into a site's folder, once, and returns its path."""
    path = folder / "task.json"
    if path.is_file() and load_task(path) != task:
        raise ValueError(f"Expected the task of earlier rounds in {path}, found another; choose another output_dir.")
    save_task(task, path)
    return path

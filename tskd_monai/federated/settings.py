"""The settings of a federation, which are the same at all parties, and those of a site, which never leave it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tskd_monai.bundle.options import plain_option
from tskd_monai.data.task import Task
from tskd_monai.federated.weights import TRANSPORT
from tskd_monai.files.json_files import is_a, read_json, shown

FOLDER_VARIABLE = "TSKD_FEDERATED"
"""Environment variable: a party's folder with its own settings; nothing in it is sent."""
SERVER_FOLDER = "server"


@dataclass(frozen=True)
class Kind:
    """A training run that can be federated.

    Attributes:
        bundle: name of its bundle.
        configs: config files, later ones override earlier ones.
        options: options of the config that the federation may set.
        paths: options that only a site may set, in addition to those of every kind.
    """

    bundle: str
    configs: tuple[str, ...]
    options: tuple[str, ...]
    paths: tuple[str, ...] = ()


COMMON = ("learning_rate", "batch_size", "precision")
STUDENT = (*COMMON, "student")
KINDS = {
    "student": Kind("distillation", ("fine_tune.yaml", "scratch.yaml", "federated.yaml"), STUDENT),
    "distillation": Kind(
        "distillation",
        ("train.yaml", "federated.yaml"),
        (*STUDENT, "feature_weight", "kl_weight", "hard_weight", "temperature"),
        ("teacher_dir", "encoder_weights", "transfer_set", "cache_dir"),
    ),
    "teacher": Kind(
        "teacher_lora",
        ("train.yaml", "federated.yaml"),
        (*COMMON, "encoder", "decoder", "refine", "tuning", "lora_rank", "lora_depth", "lora_alpha", "lr_schedule"),
        ("encoder_weights",),
    ),
}
SITE_OPTIONS = ("datalist", "output_dir", "fold", "device", "num_workers")


@dataclass(frozen=True)
class FederationSettings:
    """Settings of a federation: plain values, which the job carries to every party.

    Attributes:
        kind: key of `KINDS`.
        rounds: number of rounds, which are the epochs of the bundle's training run.
        steps: steps of the optimiser in a round, the config's `epoch_length`.
        seed: seed of all sites.
        val_interval: rounds between two validations of the common weights; the last ones are always validated.
        transport: key of `TRANSPORT`.
        options: further options of the config, of those that the kind allows.
    """

    kind: str
    rounds: int
    steps: int
    seed: int = 0
    val_interval: int = 1
    transport: str = "float32"
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises ValueError if a value is unknown, out of range, or would be evaluated as code."""
        if self.kind not in KINDS:
            raise ValueError(f"Expected a federated training among {', '.join(KINDS)}, found {shown(self.kind)}.")
        for name in ("rounds", "steps", "val_interval"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 1:
                raise ValueError(f"Expected {name} of at least 1, found {shown(getattr(self, name))}.")
        if type(self.seed) is not int or not 0 <= self.seed < 2**31:
            raise ValueError(f"Expected a seed from 0 to 2^31 - 1, found {shown(self.seed)}.")
        if self.transport not in TRANSPORT:
            raise ValueError(f"Expected transport {' or '.join(TRANSPORT)}, found {shown(self.transport)}.")
        for name, value in self.options.items():
            if name not in KINDS[self.kind].options:
                allowed = ", ".join(KINDS[self.kind].options)
                raise ValueError(f"Expected options of the federation among {allowed}, found {shown(name)}.")
            if value is not None and not is_a(value, str, int, float, bool):
                raise ValueError(f"Expected a plain value as {name}, found {type(value).__name__}.")
            plain_option(name, value)
        if self.options.get("tuning", "lora") not in ("lora", "decoder"):
            raise ValueError(
                f"Expected tuning lora or decoder, found {shown(self.options['tuning'])}: no encoder travels."
            )

    def overrides(self) -> dict[str, Any]:
        """Returns the options of the bundle's config."""
        return {**self.options, "seed": self.seed, "max_epochs": self.rounds, "epoch_length": self.steps}

    def hash(self, task: Task) -> str:
        """Returns the sha256 of the settings and the task, which name a federation."""
        return hashlib.sha256(json.dumps([asdict(self), task.hash], sort_keys=True).encode()).hexdigest()


def site_settings(site: str) -> dict[str, Any]:
    """Returns the settings of a site, from `<site>.json` in the folder of `TSKD_FEDERATED`.

    Args:
        site: name of the site.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it has no datalist or output folder, or an unknown entry.
    """
    path = party_folder() / f"{site}.json"
    if not path.is_file():
        raise FileNotFoundError(f"Expected the settings of this site in {path}, found none; see federated.md.")
    content = read_json(path)
    known = {*SITE_OPTIONS, *(name for kind in KINDS.values() for name in kind.paths)}
    if not isinstance(content, Mapping) or not {"datalist", "output_dir"} <= content.keys() <= known:
        raise ValueError(f"Expected datalist, output_dir and optionally {', '.join(sorted(known))} in {path}.")
    for name, value in content.items():
        plain_option(name, value)
    return dict(content)


def party_folder() -> Path:
    """Returns the folder of this party's own settings.

    Raises:
        ValueError: if the environment variable is not set.
    """
    if not os.environ.get(FOLDER_VARIABLE):
        raise ValueError(
            f"Expected the folder of this party's settings in {FOLDER_VARIABLE}; set it before NVFlare starts."
        )
    return Path(os.environ[FOLDER_VARIABLE])

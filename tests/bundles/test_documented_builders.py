"""What a README says that a config's builders contain is what they build, in that order and with these parameters."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from monai.bundle import ConfigParser
from monai.transforms import Compose, Randomizable

from tests.bundles.bundle_layout import ROOT
from tests.bundles.trainings import TRAININGS, Training, write_patients
from tskd_monai.data.datalist import load_section
from tskd_monai.training.handlers import HandlerSequence

DRAWS = 12


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_patients(tmp_path_factory.mktemp("documented"))


def readme(name: str) -> str:
    text = (ROOT / "bundles" / name / "docs" / "README.md").read_text(encoding="utf-8")
    return text.partition(" What the config's builders contain\n")[2]


def built(study: Path, name: str, config: str, override: dict[str, Any], ids: Sequence[str]) -> list[Any]:
    """Returns what a config builds with an override file laid over it."""
    parser = ConfigParser()
    parser.read_config(str(ROOT / "bundles" / name / "configs" / config))
    parser.update({"task": str(study / "task.json"), "datalist": str(study / "datalist.json"), **override})
    return [parser.get_parsed_content(id_) for id_ in ids]


def flat(transform: Any) -> list[Any]:
    return list(transform.transforms) if isinstance(transform, Compose) else [transform]


def outputs(transform: Any, item: dict[str, Any]) -> list[dict[str, np.ndarray]]:
    """Returns several seeded draws of a transform."""
    found = []
    for seed in range(DRAWS if isinstance(transform, Randomizable) else 1):
        if isinstance(transform, Randomizable):
            transform.set_random_state(seed=seed)
        result = transform(dict(item))
        arrays = {key: np.asarray(result.get(key)) for key in ("image", "label", "coordinates")}
        found.append({key: array for key, array in arrays.items() if array.ndim})  # else a path that was not read
    return found


@pytest.mark.parametrize("training", TRAININGS, ids=lambda training: training.name)
def test_transforms_are_those_of_the_readme(study: Path, training: Training) -> None:
    name, config = training.bundle, training.config
    source = "teacher_lora" if config == "fine_tune.yaml" else name  # to which the README refers
    block = re.search(r"```yaml\n(.*?)```", readme(source), re.DOTALL)
    assert block is not None
    override = yaml.safe_load(block[1])
    assert list(override) == ["train#preprocessing", "train#augmentation"]
    ours, documented = (built(study, name, config, changes, list(override)) for changes in ({}, override))
    item: dict[str, Any] = dict(load_section(study / "datalist.json", "training")[0])
    for own, other in zip(ours, documented, strict=True):
        assert [type(step) for step in flat(own)] == [type(step) for step in flat(other)]
        for first, second in zip(outputs(own, item), outputs(other, item), strict=True):
            assert first.keys() == second.keys()
            assert all(np.array_equal(first[key], second[key]) for key in first)
        volume = outputs(own, item)[0]
        item = {key: torch.as_tensor(volume[key][..., 3]) for key in volume}


@pytest.mark.parametrize("training", TRAININGS, ids=lambda training: training.name)
def test_handlers_are_those_of_the_readme(study: Path, tmp_path: Path, training: Training) -> None:
    source = "teacher_lora" if training.config == "fine_tune.yaml" else training.bundle
    documented = re.findall(r"^\d+\. `(\w+)`: ", readme(source), re.MULTILINE)
    changes = {"output_dir": str(tmp_path), "device": "cpu", "teacher_dir": str(study / "teacher"),
               "block_out_channels": [8, 16], "bundle_root": str(ROOT / "bundles" / training.bundle)}  # fmt: skip
    (handlers,) = built(study, training.bundle, training.config, changes, ["train#handlers"])
    standard = next(handler for handler in handlers if isinstance(handler, HandlerSequence))
    assert [type(handler).__name__ for handler in standard.handlers] == documented

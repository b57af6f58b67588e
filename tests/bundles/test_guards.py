"""Which guards each training config has; a guard that is left out has its reason here."""

from __future__ import annotations

import json
from typing import Any

import pytest
from monai.bundle import ConfigParser

from tests.bundles.bundle_layout import ROOT

TRAININGS = {
    "teacher_lora": [["train.yaml"], ["train.yaml", "multi_gpu_train.yaml"]],
    "distillation": [
        ["train.yaml"],
        ["train.yaml", "multi_gpu_train.yaml"],
        ["train.yaml", "mae.yaml"],
        ["train.yaml", "moco_v3.yaml"],
        ["train.yaml", "task_agnostic.yaml"],
        ["fine_tune.yaml"],
        ["fine_tune.yaml", "scratch.yaml"],
    ],
    "diffusion_synthesis": [["train.yaml"], ["train.yaml", "multi_gpu_train.yaml"]],
    "segmentation": [["train.json"], ["train.json", "multi_gpu_train.json"]],
}
RUNS = [(bundle, configs) for bundle, lists in TRAININGS.items() for configs in lists]
WITHOUT_LABELS = {("distillation", "train.yaml"), ("diffusion_synthesis", "train.yaml")}
"""No classes to check: the student sees none, and the diffusion model at most takes them as a condition."""

PATHS = {
    ("distillation", "train.yaml"): {"teacher_dir", "targets", "transfer_set"},
    ("distillation", "fine_tune.yaml"): {"initial_student"},
}
"""Options of files and folders that are checked to be strings."""
OWN_PARTS = ("sampler", "lr_scheduler", "history", "checkpoint")
OTHER_HANDLERS = {
    "CheckpointLoader": "the weights that the student's training starts from",
    "MomentumUpdate": "MoCo's momentum encoder",
}


@pytest.fixture(params=RUNS, ids=["-".join([bundle, *configs]) for bundle, configs in RUNS])
def training(request: pytest.FixtureRequest) -> tuple[str, list[str], dict[str, Any]]:
    """Returns the bundle, its configs, and their merged content."""
    bundle, configs = request.param
    parser = ConfigParser()
    parser.read_config([str(ROOT / "bundles" / bundle / "configs" / name) for name in configs])
    return bundle, configs, parser.get()


def component(reference: Any, config: dict[str, Any]) -> Any:
    """Returns the value that a reference refers to, and anything else unchanged."""
    while isinstance(reference, str) and reference.startswith("@"):
        node: Any = config
        for part in reference[1:].replace("::", "#").split("#"):
            node = node[part]
        reference = node
    return reference


def targets(steps: list[Any], config: dict[str, Any]) -> list[str]:
    """Returns the targets of a list of components and references, without their packages."""
    found = [component(step, config) for step in steps]
    return [step["_target_"].rpartition(".")[2] if isinstance(step, dict) else str(step) for step in found]


def first_steps(config: dict[str, Any]) -> list[Any]:
    """Returns what the config of a training run does before all else: to initialise, or where its trainer is built."""
    return config.get("initialize") or [*config["run"][:-1], *config["train"]["trainer"]["_requires_"]]


def test_steps_before_a_training_run(training: tuple[str, list[str], dict[str, Any]]) -> None:
    """The precision is checked first, then bundle root, seeds, process group and folder, then all else."""
    bundle, configs, config = training
    steps = [step.replace("DiffusionInferer", "PrecisionInferer") for step in targets(first_steps(config), config)]
    assert steps == ["end_with_the_reason", "PrecisionInferer", "guard_run"]
    guards = config["guards"]
    assert {name: guards[name] for name in ("bundle_root", "output_dir", "seed", "deterministic")} == {
        name: f"@{name}" for name in ("bundle_root", "output_dir", "seed", "deterministic")
    }
    assert guards.get("distributed", False) is any("multi_gpu" in name for name in configs)
    assert guards.get("hold_output", True)
    assert set(guards.get("paths", ())) == PATHS.get((bundle, configs[0]), set())
    assert config["finalize"] == ["$@guards.release()"]
    assert config["seed"] == 0 and config["deterministic"] is False and config["precision"] == "float32"


def test_precision_seed_and_task_reach_what_guards_them(training: tuple[str, list[str], dict[str, Any]]) -> None:
    bundle, _, config = training
    inferer = config["train"]["inferer"]
    assert (inferer["precision"], inferer["device"]) == ("@precision", "@device")
    assert config["train"]["trainer"]["inferer"].replace("::", "#") == "@train#inferer"
    assert config["train"]["sampler"]["seed"] == "@seed"
    hashed = "hash" if bundle in ("teacher_lora", "diffusion_synthesis") else "student_hash"
    assert config["train"]["checkpoint"]["task_hash"] == f"$@task_def.{hashed}"
    settings = json.dumps(config.get("finish", {}).get("settings", {})).replace("::", "#")
    assert "finish" not in config or "$@train#inferer.precision" in settings


def test_handlers_of_a_training_run(training: tuple[str, list[str], dict[str, Any]]) -> None:
    """The standard handlers, whose order `tests/training/test_handlers.py` checks, follow this run's own parts."""
    _, _, config = training
    names = targets(config["train"]["handlers"], config)
    assert [name for name in names if name not in OTHER_HANDLERS] == ["standard_handlers"]
    handlers = config["train"]["handlers"][names.index("standard_handlers")]
    own = {name: handlers[name].replace("::", "#") for name in OWN_PARTS}
    assert own == {name: f"@train#{name}" for name in OWN_PARTS}
    assert handlers["dataset"] == config["train"]["dataloader"]["dataset"]  # the one whose random state is restored
    assert (handlers["seed"], handlers["tensorboard"]) == ("@seed", "@tensorboard")
    assert handlers.get("accumulation_steps") == config["train"]["trainer"].get("accumulation_steps")
    if "validate" in config:
        assert handlers["validator"].replace("::", "#") == "@validate#evaluator"
        assert handlers["val_interval"] == "@val_interval"
    saved = set(config["train"]["checkpoint"]["save_dict"])
    assert {"network", "optimizer", "lr_scheduler", "history"} <= saved
    assert ("best" in saved) == ("validate" in config)


def test_labels_are_those_of_the_task(training: tuple[str, list[str], dict[str, Any]]) -> None:
    bundle, configs, config = training
    without = (bundle, configs[0]) in WITHOUT_LABELS
    assert targets([config["train"]["sampler"]], config) == ["SliceSampler" if without else "foreground_sampler"]


def test_every_training_of_the_bundles_is_in_the_table() -> None:
    """Except for `federated.yaml`, whose rounds have other handlers: `tests/federated` has its tests."""
    found = set()
    for path in (ROOT / "bundles").glob("*/configs/*"):
        if path.suffix in (".yaml", ".json") and path.stem not in ("metadata", "task", "federated"):
            content = ConfigParser.load_config_file(str(path))
            if "train" in content or any(str(key).startswith("train#") for key in content):
                found.add((path.parent.parent.name, path.name))
    assert found <= {(bundle, name) for bundle, configs in RUNS for name in configs}


@pytest.mark.parametrize(
    ("name", "configs"),
    [
        ("segmentation", ["inference.json"]),
        ("segmentation", ["inference.json", "multi_gpu_inference.json"]),
        ("teacher_lora", ["inference.yaml"]),
        ("diffusion_synthesis", ["inference.yaml"]),
        ("diffusion_synthesis", ["inference.yaml", "multi_gpu_inference.yaml"]),
        ("diffusion_synthesis", ["inference.yaml", "variations.yaml"]),
        ("diffusion_synthesis", ["gate.yaml"]),
    ],
)
def test_what_writes_results_holds_its_output_folder(name: str, configs: list[str]) -> None:
    parser = ConfigParser()
    parser.read_config([str(ROOT / "bundles" / name / "configs" / config) for config in configs])
    content = parser.get()
    steps = content.get("initialize") or component(content["run"][0], content)
    assert targets(steps, content)[-1] == "hold_output_dir"
    assert targets(content["finalize"], content)[0] == "release_output_dir"

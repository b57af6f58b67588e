"""Which guards each training has, read from its configs; a guard that is left out has its reason here."""

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
"""Nothing to check classes of: the student sees none, and the diffusion model takes them as a condition at most."""


@pytest.fixture(params=RUNS, ids=["-".join([bundle, *configs]) for bundle, configs in RUNS])
def training(request: pytest.FixtureRequest) -> tuple[str, list[str], dict[str, Any]]:
    """Returns bundle, configs, and what they say together."""
    bundle, configs = request.param
    parser = ConfigParser()
    parser.read_config([str(ROOT / "bundles" / bundle / "configs" / name) for name in configs])
    return bundle, configs, parser.get()


def targets(steps: list[Any], config: dict[str, Any]) -> list[str]:
    """Returns the targets of a list of components and references, without their packages."""
    found = []
    for step in steps:
        while isinstance(step, str) and step.startswith("@"):
            node: Any = config
            for part in step[1:].replace("::", "#").split("#"):
                node = node[part]
            step = node
        found.append(step["_target_"].rpartition(".")[2] if isinstance(step, dict) else str(step))
        if found[-1] == "Attach":
            found[-1:] = targets([step["handler"]], config)
    return found


def test_what_comes_before_a_training(training: tuple[str, list[str], dict[str, Any]]) -> None:
    """Bundle root and precision are checked, seeds are set, the folder is taken: before a network or an image."""
    _, configs, config = training
    steps = targets(config["initialize"], config)
    checks = ["end_with_the_reason", "check_bundle_root", "PrecisionInferer"]
    seeds = ["use_deterministic_algorithms", "seed_generators"]
    distributed = ["start_process_group"] * any("multi_gpu" in name for name in configs)
    assert [step.replace("DiffusionInferer", "PrecisionInferer") for step in steps] == [
        *checks,
        *seeds,
        *distributed,
        "hold_output_dir",
    ]
    assert targets(config["finalize"], config)[0] == "release_output_dir"
    assert config["seed"] == 0 and config["deterministic"] is False and config["precision"] == "float32"


def test_precision_seed_and_task_reach_what_guards_them(training: tuple[str, list[str], dict[str, Any]]) -> None:
    _, _, config = training
    inferer = config["train"]["inferer"]
    assert (inferer["precision"], inferer["device"]) == ("@precision", "@device")
    assert config["train"]["trainer"]["inferer"].replace("::", "#") == "@train#inferer"
    assert config["train"]["checkpoint"]["task_hash"] == "$@task_def.hash"
    settings = json.dumps(config.get("finish", {}).get("settings", {})).replace("::", "#")
    assert "finish" not in config or "$@train#inferer.precision" in settings


def test_what_watches_over_a_training(training: tuple[str, list[str], dict[str, Any]]) -> None:
    """It resumes before anything looks at the network, draws by seed and epoch, saves whole epochs, ends on signals."""
    _, _, config = training
    handlers = targets(config["train"]["handlers"], config)
    order = ["Resume", "ReseedEachEpoch", "TrainingHistory", "EpochCheckpoint", "StopOnSignal"]
    assert [name for name in handlers if name in order] == order
    saved = set(config["train"]["checkpoint"]["save_dict"])
    assert {"network", "optimizer", "lr_scheduler", "history"} <= saved
    assert ("best" in saved) == ("validate" in config)


def test_labels_are_those_of_the_task(training: tuple[str, list[str], dict[str, Any]]) -> None:
    bundle, configs, config = training
    classes = config["train"]["sampler"].get("classes_present")
    if (bundle, configs[0]) in WITHOUT_LABELS:
        assert classes is None
    else:
        assert targets([classes], config) == ["checked_classes"]


def test_every_training_of_the_bundles_is_in_the_table() -> None:
    found = set()
    for path in (ROOT / "bundles").glob("*/configs/*"):
        if path.suffix in (".yaml", ".json") and path.stem not in ("metadata", "task"):
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
        ("diffusion_synthesis", ["gate.yaml"]),
    ],
)
def test_what_writes_results_holds_its_output_folder(name: str, configs: list[str]) -> None:
    parser = ConfigParser()
    parser.read_config([str(ROOT / "bundles" / name / "configs" / config) for config in configs])
    content = parser.get()
    assert targets(content["initialize"], content)[-1] == "hold_output_dir"
    assert targets(content["finalize"], content)[0] == "release_output_dir"

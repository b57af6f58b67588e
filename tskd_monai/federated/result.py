"""The end of a federation: an ordinary student bundle, or an ordinary teacher folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from tskd_monai.bundle.run import config_files
from tskd_monai.bundle.student import write_student_bundle
from tskd_monai.data.task import Task, save_task
from tskd_monai.federated.settings import KINDS, FederationSettings
from tskd_monai.federated.state import FederationState
from tskd_monai.federated.weights import load_arrays, trained_tensors
from tskd_monai.files.shipped import BUNDLES
from tskd_monai.networks.teacher_folder import save_teacher
from tskd_monai.training.determinism import seed_generators
from tskd_monai.training.record import write_record

STUDENT_PART = "student.network."
"""Names of the student's tensors in the network that distils; the rest is the projection, which has served its turn."""


def write_result(
    state: FederationState,
    settings: FederationSettings,
    task: Task,
    output_dir: Path,
    paths: Mapping[str, Any],
) -> None:
    """Writes the best common weights as a student bundle or a teacher folder, with `record.json`.

    The task's largest-component filters stay as planned: whether one lowers the Dice is measured on images, and the
    server has none.

    Args:
        state: state of the complete federation.
        settings: its settings.
        task: common task.
        output_dir: folder of the result.
        paths: `encoder_weights` of a teacher, if they are not the config's default.

    Raises:
        ValueError: if rounds are missing.
    """
    if not state.done:
        raise ValueError(
            f"Expected {state.rounds} complete rounds in {state.folder}, found {state.round}; continue first."
        )
    save_task(task, output_dir / "task.json")
    network, student = _network(settings, output_dir / "task.json", paths)
    prefix = STUDENT_PART if settings.kind == "distillation" else ""
    best = {name.removeprefix(prefix): value for name, value in state.best.items() if name.startswith(prefix)}
    load_arrays(trained_tensors(network), best)
    results = {"val_mean_dice": state.best_dice, "best_round": state.best_round, "rounds": state.rounds}
    if settings.kind == "teacher":
        save_teacher(network, output_dir, task_hash=task.hash, record=results)
    else:
        write_student_bundle(BUNDLES / "segmentation", output_dir, task, student, network.state_dict())
    inputs = {"task": output_dir / "task.json"}
    used = {**settings.overrides(), "transport": settings.transport}
    write_record(output_dir / "record.json", f"federated {settings.kind}", used, inputs, results)


def _network(settings: FederationSettings, task_file: Path, paths: Mapping[str, Any]) -> tuple[Any, str]:
    """Returns the network of the bundle's config, and the name of the student."""
    kind = KINDS[settings.kind]
    parser = ConfigParser()
    parser.read_config([str(path) for path in config_files(BUNDLES / kind.bundle, kind.configs)])
    known = {name: value for name, value in paths.items() if name == "encoder_weights" and settings.kind == "teacher"}
    parser.update({**settings.overrides(), **known, "task": str(task_file)})
    seed_generators(settings.seed)
    student = "" if settings.kind == "teacher" else str(parser.get_parsed_content("student"))
    return parser.get_parsed_content("network_def"), student

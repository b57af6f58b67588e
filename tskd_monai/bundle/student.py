"""The student as a bundle, which MONAI Label, the model zoo and the inference stage run."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from monai.engines import SupervisedEvaluator

from tskd_monai.data.growing_task import is_extension
from tskd_monai.data.task import Task, load_task, require_same_task, save_task
from tskd_monai.files.atomic import atomic_path
from tskd_monai.files.json_files import read_json, write_json
from tskd_monai.networks.cost import count_parameters
from tskd_monai.networks.new_classes import with_new_classes
from tskd_monai.networks.pretrained import load_encoder_weights
from tskd_monai.networks.students import network_definition
from tskd_monai.networks.weights_file import load_strictly, read_weights
from tskd_monai.training.checkpoint import BestCheckpoint, load_checkpoint, save_checkpoint
from tskd_monai.training.component_filters import harmful_filters
from tskd_monai.training.history import TrainingHistory
from tskd_monai.training.record import write_record

TEMPLATE_FILES = (
    "LICENSE",
    "configs/inference.json",
    "configs/evaluate.json",
    "configs/train.json",
    "configs/multi_gpu_inference.json",
    "configs/multi_gpu_train.json",
    "configs/dry_run.json",
    "configs/fit_quality.json",
    "configs/dicom_seg.json",
    "configs/dicom_results.json",
    "configs/watch.json",
    "configs/logging.conf",
    "docs/README.md",
    "docs/inputs.md",
    "docs/many_studies.md",
    "docs/monai_label.md",
    "docs/annotate.md",
)
CONFIGS_WITH_STUDENT = ("configs/inference.json", "configs/train.json")
OWNER = {"authors": "Not stated by those who trained it.", "copyright": "Not stated by those who trained it."}
"""Placeholders in the metadata of a user's model, for its owner to fill in."""
VENDORED_CODE = "scripts"
"""Folder of code in an exported bundle; the project's own template has none."""


def write_student_bundle(
    template: str | Path, output_dir: str | Path, task: Task, student: str, weights: Mapping[str, torch.Tensor]
) -> None:
    """Fills in the `segmentation` bundle for a task and a student; `models/model.pt` is written last.

    The code of an exported template is copied too.

    Args:
        template: folder of the `segmentation` bundle.
        output_dir: folder of the new bundle.
        task: labels, intensities and geometry of the data.
        student: name for `build_student`.
        weights: the student's state dict.

    Raises:
        FileNotFoundError: if a file of the template is missing.
    """
    template, output_dir = Path(template), Path(output_dir)
    for name in TEMPLATE_FILES:
        if not (template / name).is_file():
            raise FileNotFoundError(
                f"Expected {name} in the segmentation bundle {template}, found none; give --template."
            )
        with atomic_path(output_dir / name) as temporary:
            shutil.copyfile(template / name, temporary)
    if (template / VENDORED_CODE).is_dir():
        shutil.copytree(template / VENDORED_CODE, output_dir / VENDORED_CODE, dirs_exist_ok=True)
    network = student_settings(task, student)
    for name in CONFIGS_WITH_STUDENT:
        write_json(output_dir / name, {**read_json(output_dir / name), **network})
    save_task(task, output_dir / "configs" / "task.json")
    metadata = read_json(template / "configs" / "metadata.json")
    write_json(output_dir / "configs" / "metadata.json", _describe(metadata, task))
    save_checkpoint(dict(weights), output_dir / "models" / "model.pt")


def student_settings(task: Task, student: str) -> dict[str, Any]:
    """Returns the values of the config ids that define the student's network.

    Args:
        task: task of the student.
        student: name for `build_student`.
    """
    definition = network_definition(student, task.student_channels, task.num_classes, task.image_size)
    return {"student": student, "network_def": definition}


def load_student_weights(bundle: str | Path | None, task: Task) -> dict[str, torch.Tensor] | None:
    """Returns the weights of a student bundle made for this task; None if no bundle is given.

    Raises:
        FileNotFoundError: if the bundle has no task or no weights.
        ValueError: if it was made for another task, or takes other neighbouring slices.
    """
    if bundle is None:
        return None
    bundle = Path(bundle)
    found = load_task(bundle / "configs" / "task.json")
    require_same_task(found.hash, task, f"student bundle {bundle.name}")
    if found.neighbours != task.neighbours:
        raise ValueError(
            f"Expected a student of {task.neighbours} neighbouring slices on each side in {bundle.name}, found one of "
            f"{found.neighbours}; choose another student, or set `neighbours` in task.json."
        )
    return read_weights(bundle / "models" / "model.pt")


def start_from(
    network: torch.nn.Module, bundle: str | Path | None, task: Task, encoder_weights: str | Path | None = None
) -> torch.nn.Module:
    """Returns the network initialised from a student bundle or published encoder weights, or unchanged.

    From a student of a task with fewer classes its layers of classes are extended (`networks.new_classes`).

    Args:
        network: the student.
        bundle: student bundle of the same architecture; None: random weights.
        task: the task that the bundle must have been made for, or one that sees the same of an image and has more
            classes.
        encoder_weights: file of ImageNet weights for `vit_tiny`.

    Raises:
        ValueError: if both are given, or the weights do not fit the network.
    """
    if bundle is not None and encoder_weights is not None:
        raise ValueError(
            f"Expected --initial_student or --encoder_weights, found both ({Path(bundle).name} and "
            f"{Path(encoder_weights).name}); leave out one."
        )
    if encoder_weights is not None:
        load_encoder_weights(network, encoder_weights)
    weights = _known_classes(network, bundle, task) or load_student_weights(bundle, task)
    if weights is not None:
        load_strictly(network, weights, f"the student bundle {Path(str(bundle)).name}")
    return network


def _known_classes(network: torch.nn.Module, bundle: str | Path | None, task: Task) -> dict[str, torch.Tensor] | None:
    """Returns the extended weights of a bundle whose task has fewer classes; None of any other."""
    file = None if bundle is None else Path(bundle) / "configs" / "task.json"
    if bundle is None or file is None or not file.is_file() or not is_extension(task, load_task(file)):
        return None
    return with_new_classes(network, read_weights(Path(bundle) / "models" / "model.pt"))


def finish_student(
    network: torch.nn.Module,
    best: BestCheckpoint,
    history: TrainingHistory,
    template: str | Path,
    output_dir: str | Path,
    task: Task,
    student: str,
    stage: str,
    settings: Mapping[str, Any],
    inputs: Mapping[str, str],
    validator: SupervisedEvaluator | None = None,
) -> None:
    """Writes the student of the best validation score as a bundle, and `record.json`.

    The bundle's task omits the largest-component filters that lower the validation Dice of this student.

    Args:
        network: the student.
        best: holds the path of the weights with the best validation score.
        history: metrics by epoch.
        template: folder of the `segmentation` bundle.
        output_dir: folder of the student's bundle.
        task: labels, intensities and geometry of the data.
        student: name for `build_student`.
        stage: name of the stage, for the record.
        settings: settings of the run, for the record.
        inputs: input files by name, for the record.
        validator: evaluator of the run; None: the task's filters are kept, as for a network that does not segment yet.
    """
    if idist.get_rank():
        return
    weights = load_checkpoint(best.path)
    network.load_state_dict(weights)
    if validator is not None:
        task = replace(task, unfiltered=harmful_filters(network, validator, task))
    write_student_bundle(template, output_dir, task, student, weights)
    results = {
        "val_mean_dice": best.best_metric,
        "best_epoch": best.best_epoch,
        "seconds": history.rows[-1]["seconds"],
        "seconds_per_epoch": history.rows[-1]["seconds"] / history.rows[-1]["epoch"],
        "parameters": count_parameters(network),
        "largest_component_of": [task.foreground[value] for value in task.filtered],
    }
    write_record(Path(output_dir) / "record.json", stage, settings, inputs, results)


def fill_data_format(metadata: dict[str, Any], task: Task, neighbours: int = 0) -> dict[str, Any]:
    """Returns a bundle's metadata with the channels, size and classes of a task in `network_data_format`.

    Args:
        metadata: metadata of the bundle.
        task: task of the network.
        neighbours: slices on each side that the network takes as further channels.
    """
    formats = metadata["network_data_format"]
    image, pred = formats["inputs"]["image"], formats["outputs"]["pred"]
    own = ["image"] if task.channels == 1 else ["red", "green", "blue"]
    names = [f"{name}, slice {offset:+d}" if offset else name
             for offset in range(-neighbours, neighbours + 1) for name in own]  # fmt: skip
    modalities = {"percentile": image["modality"], "hu_window": "CT", "rgb": "RGB"}
    image = {
        **image,
        "num_channels": len(names),
        "spatial_shape": list(task.image_size),
        "modality": modalities[task.intensity.mode],
        "channel_def": {str(index): name for index, name in enumerate(names)},
    }
    pred = {
        **pred,
        "num_channels": task.num_classes,
        "spatial_shape": list(task.image_size),
        "channel_def": {str(index): label.name for index, label in enumerate(task.labels)},
    }
    return {**metadata, "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": pred}}}


def _describe(metadata: dict[str, Any], task: Task) -> dict[str, Any]:
    """Returns the template's metadata with the task's channels and classes, and without the template's owner."""
    names = ", ".join(task.foreground.values())
    return {
        **fill_data_format(metadata, task, task.neighbours),
        **OWNER,
        "name": f"{task.name}: segmentation by a distilled student",
        "task": f"Segmentation of {names}",
        "description": f"A small student distilled from a tuned foundation model. Classes: {names}.",
    }

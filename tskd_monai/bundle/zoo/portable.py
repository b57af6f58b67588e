"""A student as a bundle of configs and weights only: MONAI's own transforms and network, and no Python file.

Platforms that refuse code in bundles take it, and a reader of the model zoo knows each of its lines. The preprocessing
is that of `tskd_monai.transforms.pipelines.preprocessing`, without its checks.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from string import Template
from typing import Any

from tskd_monai.bundle.zoo.cards import Card, load_card
from tskd_monai.bundle.zoo.contents import TASK, Contents, Trained, place_student
from tskd_monai.bundle.zoo.pins import load_pins
from tskd_monai.data.task import Task
from tskd_monai.files.json_files import write_json
from tskd_monai.files.shipped import BUNDLES, ROOT
from tskd_monai.transforms.pipelines import AXIS_LABELS

README = Path("docs") / "README.md"
README_TEMPLATE = Path(__file__).parent / "portable_readme.md"
REQUIRED = ("nibabel", "pytorch-ignite")
FOR_COMPONENTS = "scikit-image"
OVERLAP = 0.25
"""Of the windows of slices that are larger than the network's input, as in `LabelMapInferer`."""


def export_portable(trained: Trained, output: Path, name: str, card_file: Path | None = None) -> Path:
    """Writes `output/<name>/`, replacing a previous export, and returns it.

    Args:
        trained: student and its task.
        output: output folder.
        name: name of the bundle.
        card_file: YAML file with what only those who trained the model know; None: not stated.

    Raises:
        FileExistsError: if the folder has other files.
        FileNotFoundError: if there are no weights.
        ValueError: if the student's network is not MONAI's, or its images are 2D files.
    """
    card = load_card(card_file) if card_file else None
    folder, draft = output / name, output / f".{name}.draft"
    if folder.is_dir() and any(folder.iterdir()) and _is_other(folder):
        raise FileExistsError(
            f"Expected a new folder or an earlier portable export at {folder}, found other files; give another "
            "--output-dir or --name."
        )
    shutil.rmtree(draft, ignore_errors=True)
    try:
        contents = place_student(trained, draft)
        network = contents.settings["inference.json"]["network_def"]
        _check_portable(network, contents.task, contents.settings["inference.json"]["student"])
        write_json(draft / "configs" / "inference.json", inference_config(contents.task, network))
        metadata = _metadata(contents, card)
        write_json(draft / "configs" / "metadata.json", metadata)
        (draft / TASK).unlink()
        for file in ("LICENSE", "configs/logging.conf"):
            shutil.copyfile(BUNDLES / "segmentation" / file, draft / file)
        _write_readme(draft, name, metadata, contents.task, card)
        shutil.rmtree(folder, ignore_errors=True)
        draft.replace(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def inference_config(task: Task, network: dict[str, Any]) -> dict[str, Any]:
    """Returns the config that segments a list of volumes.

    Args:
        task: task of the student.
        network: definition of its network, of MONAI.
    """
    return {
        "imports": ["$import glob"],
        "bundle_root": ".",
        "dataset_dir": "/workspace/data",
        "output_dir": "$@bundle_root + '/predictions'",
        "datalist": "$list(sorted(glob.glob(@dataset_dir + '/*.nii.gz')))",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "network_def": network,
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": preprocessing_steps(task)},
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': path} for path in @datalist]",
            "transform": "@preprocessing",
        },
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "num_workers": 0},
        "inferer": {
            "_target_": "SliceInferer",
            "roi_size": list(task.image_size),
            "spatial_dim": 2,
            "sw_batch_size": 8,
            "overlap": OVERLAP,
            "mode": "gaussian",
        },
        "postprocessing": {"_target_": "Compose", "transforms": postprocessing_steps(task)},
        "handlers": [
            {
                "_target_": "CheckpointLoader",
                "load_path": "$@bundle_root + '/models/model.pt'",
                "load_dict": {"model": "@network"},
                "map_location": "@device",
            }
        ],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
        },
        "run": ["$@evaluator.run()"],
    }


def preprocessing_steps(task: Task) -> list[dict[str, Any]]:
    """Returns the definitions of MONAI's transforms from a file to the network's input (C, H, W, D)."""
    low, high = task.intensity.lower, task.intensity.upper
    limits = {"b_min": 0.0, "b_max": 1.0, "clip": True}
    scaling = (
        {"_target_": "ScaleIntensityRangePercentilesd", "keys": "image", "lower": low, "upper": high, **limits}
        if task.intensity.mode == "percentile"
        else {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": low, "a_max": high, **limits}
    )
    labels = [list(pair) for pair in AXIS_LABELS]
    return [
        {"_target_": "LoadImaged", "keys": "image"},
        {"_target_": "EnsureChannelFirstd", "keys": "image"},
        {"_target_": "Orientationd", "keys": "image", "axcodes": task.axcodes, "labels": labels},
        {
            "_target_": "Spacingd",
            "keys": "image",
            "pixdim": [*task.pixdim, -1.0],
            "mode": "bilinear",
            "padding_mode": "border",
        },
        scaling,
    ]


def postprocessing_steps(task: Task) -> list[dict[str, Any]]:
    """Returns the definitions of MONAI's transforms from logits to a file with the label values on the image's grid."""
    values = list(task.label_values)
    indices = list(range(len(values)))
    kept = [values.index(value) for value in task.filtered]
    steps: list[dict[str, Any]] = [
        {
            "_target_": "Invertd",
            "keys": "pred",
            "transform": "@preprocessing",
            "orig_keys": "image",
            "nearest_interp": False,
            "to_tensor": True,
        },
        {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
    ]
    if kept:
        steps.append({"_target_": "KeepLargestConnectedComponentd", "keys": "pred", "applied_labels": kept})
    if values != indices:
        steps.append(
            {"_target_": "MapLabelValued", "keys": "pred", "orig_labels": indices, "target_labels": values}
        )  # fmt: skip
    saving = {"output_postfix": "seg", "output_ext": ".nii.gz", "resample": False, "separate_folder": False}
    dtype = "uint8" if max(values) < 256 else "int32"
    return [
        *steps,
        {"_target_": "SaveImaged", "keys": "pred", "output_dir": "@output_dir", "output_dtype": dtype, **saving},
    ]


def _check_portable(network: dict[str, Any], task: Task, student: str) -> None:
    if "." in network["_target_"]:
        raise ValueError(
            f"Expected a student whose network is MONAI's for --to portable, found {student}; export it with --to zoo, "
            "which includes the code."
        )
    if task.neighbours:
        raise ValueError(
            f"Expected a student of single slices for --to portable, found one that sees {task.neighbours} on each "
            "side; export it with --to zoo."
        )
    if task.axcodes is None:
        raise ValueError(
            "Expected a student of volumes for --to portable, found one of 2D image files; export it with --to zoo."
        )


def _is_other(folder: Path) -> bool:
    """Returns whether a folder is not an earlier portable export."""
    config = folder / "configs" / "inference.json"
    return not config.is_file() or "SliceInferer" not in config.read_text() or any(folder.rglob("*.py"))


def _metadata(contents: Contents, card: Card | None) -> dict[str, Any]:
    pins = load_pins(ROOT / "scripts" / "constraints.txt", ROOT / "setup.cfg")
    required = [*REQUIRED, *([FOR_COMPONENTS] if contents.task.filtered else [])]
    versions = {name: pins.versions[name] for name in required}
    metadata = {**contents.metadata, **pins.core(), "required_packages_version": versions}
    if card is not None:
        metadata |= {"data_source": card.data.strip(), "tags": list(card.tags)}
        metadata |= {"weights_license": card.license, "non_commercial": card.non_commercial}
        metadata |= {key: text for key in ("authors", "copyright") if (text := getattr(card, key)) is not None}
    return metadata


def _write_readme(folder: Path, name: str, metadata: dict[str, Any], task: Task, card: Card | None) -> None:
    labels = ", ".join(f"{value} {label}" for value, label in task.foreground.items())
    weights = "The licence of the weights was not stated." if card is None else f"Weights: {card.license}."
    text = Template(README_TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=metadata["name"],
        monai=metadata["monai_version"],
        name=name,
        labels=labels,
        description=f"{metadata['description']} {metadata['intended_use']}",
        weights=weights,
    )
    (folder / README).parent.mkdir(parents=True, exist_ok=True)
    (folder / README).write_text(text, encoding="utf-8")
    if card is not None:
        (folder / "docs" / "data_license.txt").write_text(card.data_license.strip() + "\n", encoding="utf-8")

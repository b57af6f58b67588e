"""The calls that MONAI Label 0.8.5 makes on a bundle's config ids, without the server.

Source: `BundleInferTask`, `BasicInferTask` and `BundleTrainTask` of Project-MONAI/MONAILabel.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import monai.bundle
import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose, LoadImaged, SaveImaged

INFERENCE_IDS = ("network_def", "preprocessing", "inferer", "postprocessing")
TRAINING_OVERRIDES = (
    "bundle_root",
    "train#trainer#max_epochs",
    "train#dataset#data",
    "device",
    "train#handlers",
    "validate#dataset#data",
)


def open_config(bundle: Path, name: str) -> ConfigParser:
    """Returns one config of a bundle, given only its root."""
    parser = ConfigParser()
    parser.read_config(bundle / "configs" / name)
    parser.config.update({"bundle_root": str(bundle)})
    return parser


def offered_labels(bundle: Path) -> dict[str, int]:
    """Returns the labels offered to viewers, and checks the names of input and output."""
    formats = json.loads((bundle / "configs" / "metadata.json").read_text())["network_data_format"]
    assert next(iter(formats["inputs"])) == "image"
    name, pred = next(iter(formats["outputs"].items()))
    assert name == "pred"
    return {label.lower(): int(key) for key, label in pred["channel_def"].items() if label.lower() != "background"}


def infer(bundle: Path, image: Path) -> dict[str, Any]:
    """Returns the dictionary whose `pred` MONAI Label writes: a label map (1, X, Y, Z) before it drops an axis."""
    parser = open_config(bundle, "inference.json")
    data: dict[str, Any] = {"model": "student", "image": str(image), "image_path": str(image), "device": "cpu"}
    data |= {"model_filename": ["model.pt"], "description": "", "result_extension": ".nii.gz"}
    for transform in transforms(parser, "preprocessing"):
        if isinstance(transform, LoadImaged):
            transform._loader.image_only = False
        data = transform(data)
    network = copy.deepcopy(parser.get_parsed_content("network_def", instantiate=True))
    weights = torch.load(bundle / "models" / "model.pt", map_location="cpu")
    network.load_state_dict(weights.get("model", weights), strict=False)
    with torch.no_grad():
        data["pred"] = parser.get_parsed_content("inferer", instantiate=True)(data["image"][None], network.eval())[0]
    for transform in transforms(parser, "postprocessing"):
        if not isinstance(transform, SaveImaged):
            data = transform(data)
    return data


def transforms(parser: ConfigParser, id_: str) -> list[Any]:
    """Returns the transforms of a config id, which must be a `Compose` or a list."""
    content = parser.get_parsed_content(id_, instantiate=True)
    return list(content.transforms) if isinstance(content, Compose) else content


def train(bundle: Path, training: Sequence[Mapping[str, str]], validation: Sequence[Mapping[str, str]]) -> None:
    """Trains for three epochs on items `{"image", "label"}`."""
    handlers = open_config(bundle, "train.json").get("train#handlers", [])
    values = (str(bundle), 3, list(training), "cpu", handlers, list(validation))
    monai.bundle.run(
        run_id="run",
        init_id=None,
        final_id=None,
        meta_file=str(bundle / "configs" / "metadata.json"),
        config_file=str(bundle / "configs" / "train.json"),
        **dict(zip(TRAINING_OVERRIDES, values, strict=True)),
    )

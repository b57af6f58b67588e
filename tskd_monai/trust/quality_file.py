"""The quality file of a student, `models/quality.json`: derived statistics of its training patients, a few kB."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from tskd_monai.data.task import Task, require_same_task
from tskd_monai.files.atomic import atomic_path
from tskd_monai.files.checksum import file_sha256
from tskd_monai.files.json_files import Fields, check_fields, is_a, read_json
from tskd_monai.trust.dice_model import DiceModel
from tskd_monai.trust.features import FeatureModel
from tskd_monai.trust.reference import SIGNALS, Normal, Reference, StructureReference

QUALITY_FILE = "quality.json"
FORMAT_VERSION = 1
ADVICE = "fit it again with configs/fit_quality.json"
DIGITS = 4
CONTENT: Fields = {
    "format_version": (int,),
    "weights": (str,),
    "task": (str,),
    "layer": (str,),
    "patients": (int,),
    "features": (dict,),
    "structures": (dict,),
    "ranges": (dict,),
    "dice": (dict,),
}


@dataclass(frozen=True)
class Quality:
    """What is needed to assess the segmentations of one student.

    Attributes:
        weights: SHA-256 of the student's weights.
        task: hash of its task.
        layer: layer whose features are compared.
        reference: the training patients.
        dice: regression from the signals to the Dice.
    """

    weights: str
    task: str
    layer: str
    reference: Reference
    dice: DiceModel


def save_quality(quality: Quality, path: str | Path) -> None:
    """Writes the quality file; numbers have four digits."""
    reference = quality.reference
    content = {
        "format_version": FORMAT_VERSION,
        "weights": quality.weights,
        "task": quality.task,
        "layer": quality.layer,
        "patients": reference.patients,
        "features": asdict(reference.features),
        "structures": {name: asdict(structure) for name, structure in reference.structures.items()},
        "ranges": dict(reference.ranges),
        "dice": asdict(quality.dice),
    }
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(_rounded(content), allow_nan=False) + "\n", encoding="utf-8")


def load_quality(path: str | Path, weights: str | Path, task: Task) -> Quality:
    """Returns the content of a quality file.

    Args:
        path: the file.
        weights: file of the student's weights, for which it must have been fitted.
        task: task of the student.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it was fitted for other weights or another task, or is not as `save_quality` writes it; names
            the file and the field.
    """
    content = read_json(path)
    check_fields(content, CONTENT, str(path), ADVICE)
    if content["format_version"] != FORMAT_VERSION:
        raise ValueError(
            f"Expected format_version {FORMAT_VERSION} in {path}, found {content['format_version']}; {ADVICE}."
        )
    found = file_sha256(weights)
    if content["weights"] != found:
        raise ValueError(
            f"Expected {Path(path).name} fitted for the weights {found[:12]}, found one for {content['weights'][:12]}; "
            f"{ADVICE}."
        )
    require_same_task(content["task"], task, Path(path).name)
    names = set(task.foreground.values())
    if set(content["structures"]) != names:
        raise ValueError(
            f"Expected the structures {sorted(names)} in {path}, found {sorted(content['structures'])}; {ADVICE}."
        )
    where = f"{path}, "
    reference = Reference(
        patients=content["patients"],
        features=_features(content["features"], f"{where}features"),
        structures={name: _structure(found, f"{where}{name}") for name, found in content["structures"].items()},
        ranges={name: _range(found, f"{where}{name}") for name, found in content["ranges"].items()},
    )
    return Quality(
        content["weights"], content["task"], content["layer"], reference, _dice(content["dice"], f"{where}dice")
    )


def _features(content: Mapping[str, Any], where: str) -> FeatureModel:
    mean, variances = (_vector(content, name, where) for name in ("mean", "variances"))
    check_fields(content, {"axes": (list,), "rest": (float,), "unit": (float,)}, where, ADVICE)
    axes = np.array([_vector({"axes": row}, "axes", where) for row in content["axes"]])
    if axes.shape != (len(variances), len(mean)) or min(*variances, content["rest"], content["unit"]) <= 0:
        raise ValueError(
            f"Expected axes of the size of mean and positive variances in {where}, found others; {ADVICE}."
        )
    return FeatureModel(mean, axes, variances, float(content["rest"]), float(content["unit"]))


def _structure(content: Any, where: str) -> StructureReference:
    normals = [field.name for field in fields(StructureReference) if field.type == "Normal"]
    kinds: Fields = {field.name: (dict if field.name in normals else float,) for field in fields(StructureReference)}
    check_fields(content, kinds, where, ADVICE)
    values: dict[str, Any] = {name: content[name] for name in kinds if name not in normals}
    values |= {name: _normal(content[name], f"{where}, {name}") for name in normals}
    return StructureReference(**values)


def _normal(content: Any, where: str) -> Normal:
    check_fields(content, {"mean": (float,), "deviation": (float,)}, where, ADVICE)
    if content["deviation"] <= 0:
        raise ValueError(f"Expected a positive deviation in {where}, found {content['deviation']}; {ADVICE}.")
    return Normal(content["mean"], content["deviation"])


def _range(content: Any, where: str) -> tuple[float, float]:
    low, high = _vector({"range": content}, "range", where, 2)
    return float(low), float(high)


def _dice(content: Mapping[str, Any], where: str) -> DiceModel:
    means, scales, weights = (_vector(content, name, where, len(SIGNALS)) for name in ("means", "scales", "weights"))
    check_fields(content, {"intercept": (float,), "radius": (float, type(None))}, where, ADVICE)
    check_fields(content, {"patients": (int,), "copies": (int,)}, where, ADVICE)
    if min(scales) <= 0:
        raise ValueError(f"Expected positive scales in {where}, found others; {ADVICE}.")
    rest = {name: content[name] for name in ("intercept", "radius", "patients", "copies")}
    return DiceModel(means, scales, weights, **rest)


def _vector(content: Mapping[str, Any], name: str, where: str, length: int | None = None) -> np.ndarray:
    """Returns a list of numbers as an array (N,)."""
    found = content.get(name)
    if not isinstance(found, list) or not found or not all(is_a(value, float) for value in found):
        raise ValueError(f"Expected {name} in {where} to be a list of numbers, found another; {ADVICE}.")
    if length not in (None, len(found)):
        raise ValueError(f"Expected {length} numbers in {name} of {where}, found {len(found)}; {ADVICE}.")
    return np.array(found, dtype=np.float64)


def _rounded(content: Any) -> Any:
    """Returns content for JSON: arrays as lists, numbers with four significant digits."""
    if isinstance(content, dict):
        return {key: _rounded(value) for key, value in content.items()}
    if isinstance(content, (list, tuple, np.ndarray)):
        return [_rounded(value) for value in content]
    if isinstance(content, float):  # of numpy too
        return float(f"{content:.{DIGITS}g}")
    return content

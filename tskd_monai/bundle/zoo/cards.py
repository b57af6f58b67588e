"""The README of an exported bundle in the zoo's template, and the model card it is filled from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from string import Template
from typing import Any

import yaml

from tskd_monai.bundle.zoo.pins import CORE
from tskd_monai.data.task import Task
from tskd_monai.files.json_files import read_json

TEMPLATE = Path(__file__).parent / "readme_template.md"
NOT_STATED = "Not stated when the bundle was exported (`--card`)."
RUN = "python -m monai.bundle run --bundle_root {name} --config_file {name}/configs/"
COMMANDS = {
    "segmentation": RUN + "inference.json --image scan.nii.gz --output_dir predictions",
    "teacher_lora": RUN + "inference.yaml --image scan.nii.gz --output_dir predictions",
    "diffusion_synthesis": RUN + "inference.yaml --number 8 --output_dir transfer_set",
    "distillation": RUN + "inference.json --image scan.nii.gz --output_dir predictions",
}
LIMITS = {
    "teacher_lora": "The network cannot be exported to TorchScript: it is built from `transformers`.",
    "diffusion_synthesis": "The network takes a time step as a second input and cannot be exported to TorchScript.",
}
INTENSITIES = {
    "percentile": "Intensities from percentile {lower:g} to {upper:g} of each volume become 0 to 1.",
    "hu_window": "Intensities from {lower:g} to {upper:g} HU become 0 to 1.",
    "rgb": "Colours from {lower:g} to {upper:g} become 0 to 1.",
}


@dataclass(frozen=True)
class Card:
    """What only those who trained a model know about it.

    Attributes:
        tags: keywords, such as Segmentation, MR.
        data: images, number of patients, split, and where to get them.
        license: licence of the weights, as the hub names it (`apache-2.0`, `cc-by-nc-sa-4.0`).
        non_commercial: whether that licence or the data's forbids commercial use.
        data_license: conditions of use of the data.
        training: hardware, number of steps, duration.
        references: papers and datasets.
        authors: authors of the model; None: as in its metadata.
        copyright: copyright of the weights; None: as in its metadata.
    """

    tags: tuple[str, ...]
    data: str
    license: str
    non_commercial: bool
    data_license: str
    training: str = NOT_STATED
    references: tuple[str, ...] = ()
    authors: str | None = None
    copyright: str | None = None


def load_card(path: Path) -> Card:
    """Returns the card of a YAML file.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if it is not YAML, or a key is missing, unknown or empty.
    """
    if not path.is_file():
        raise FileNotFoundError(f"Expected a card at {path}, found none.")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"Expected YAML in the card {path}: {error}") from error
    known = [item.name for item in fields(Card)]
    required = known[:5]
    if not isinstance(content, dict) or set(content) - set(known) or set(required) - set(content):
        found = sorted(content) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"Expected {', '.join(required)} and maybe {', '.join(known[5:])} in {path}, found {found}.")
    if not isinstance(content["non_commercial"], bool):
        raise ValueError(f"Expected true or false for non_commercial in {path}, found {content['non_commercial']!r}.")
    content |= {key: tuple(content[key]) for key in ("tags", "references") if key in content}
    return Card(**content)


def readme(
    name: str,
    bundle: str,
    metadata: Mapping[str, Any],
    optional: Mapping[str, str],
    task: Task,
    card: Card | None,
    metrics: Path | None,
    model_card: Path | None = None,
) -> str:
    """Returns the README in the zoo's template.

    Args:
        name: name of the exported bundle.
        bundle: name of the project's bundle that it was made from.
        metadata: metadata of the exported bundle.
        optional: versions of optional packages.
        task: the task that the weights were trained for.
        card: what is known about the training run; None: not stated.
        metrics: `metrics.json` of an evaluation; None: the table of the model card.
        model_card: document with the results of these weights; None: not measured.
    """
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=metadata["name"],
        authors=metadata["authors"],
        tags=", ".join(card.tags) if card else "Knowledge Distillation",
        description=metadata["description"],
        limitations=" ".join([metadata["intended_use"], *([LIMITS[bundle]] if bundle in LIMITS else [])]),
        data=card.data.strip() if card else NOT_STATED,
        data_license=card.data_license.strip() if card else NOT_STATED,
        preprocessing=_preprocessing(task),
        performance=_performance(metrics, model_card),
        training=card.training.strip() if card else NOT_STATED,
        command=COMMANDS[bundle].format(name=name),
        name=name,
        packages=_as_pip_takes_them(_packages(metadata)),
        optional=_as_pip_takes_them(optional),
        weights_license=_weights_license(card, metadata["copyright"]),
        references=_references(card),
    )


def _packages(metadata: Mapping[str, Any]) -> dict[str, str]:
    return {name: metadata[key] for name, key in CORE.items()} | metadata["required_packages_version"]


def _as_pip_takes_them(versions: Mapping[str, str]) -> str:
    return " ".join(f"{name}=={version}" for name, version in versions.items())


def _references(card: Card | None) -> str:
    texts = card.references if card else ()
    return "\n".join(f"[{number}] {text}" for number, text in enumerate(texts, 1)) or NOT_STATED


def _weights_license(card: Card | None, copyright_line: str) -> str:
    if card is None:
        return f"Weights: {NOT_STATED}"
    note = " They must not be used commercially." if card.non_commercial else ""
    return f"Weights: {card.license}. {copyright_line.rstrip('.')}.{note}"


def _preprocessing(task: Task) -> str:
    size, spacing = " x ".join(map(str, task.image_size)), " x ".join(f"{value:g}" for value in task.pixdim)
    view = f"Slices are oriented to {task.axcodes}, resampled" if task.axcodes else "Images are resampled"
    intensity = INTENSITIES[task.intensity.mode].format(lower=task.intensity.lower, upper=task.intensity.upper)
    return (
        f"{view} to {spacing} mm per pixel, cropped or padded to {size} pixels. {intensity} "
        "The configs do all of this; the result is on the input's own grid."
    )


def _performance(metrics: Path | None, model_card: Path | None) -> str:
    if metrics is not None:
        return _table_of(metrics)
    if model_card is not None:
        return f"{_first_table(model_card)}\n\nHow it was trained and measured: [{model_card.name}]({model_card.name})."
    return "Not measured for these weights."


def _first_table(document: Path) -> str:
    """Returns the first table of a Markdown document.

    Raises:
        ValueError: if it has none.
    """
    found = re.search(r"(?:^\|.*\n?)+", document.read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise ValueError(f"Expected a table of results in {document}, found none; give --metrics.")
    return found.group().strip()


def _table_of(metrics: Path) -> str:
    """Returns a Markdown table of the mean scores of each class."""
    content = read_json(metrics)
    rows = ["| structure | Dice | HD95 | missed | cases |", "|---|---|---|---|---|"]
    for structure, values in {**content["classes"], "mean": content}.items():
        hd95 = next(key for key in values if key.startswith("hd95_"))
        shown = _spread(values["dice"], 3), f"{_spread(values[hd95], 1)} {hd95.removeprefix('hd95_')}"
        rows.append(f"| {structure} | {' | '.join(shown)} | {values['missed']} | {values['dice']['cases']} |")
    return "\n".join(rows) + "\n\nMean and standard deviation over patients."


def _spread(values: Mapping[str, float | None], digits: int) -> str:
    numbers = (values["mean"], values["sd"])
    return " ± ".join("-" if number is None else f"{number:.{digits}f}" for number in numbers)

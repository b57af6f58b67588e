"""How good soft targets are where labels are known: a table by case and class, and a contact sheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from tskd_monai.data.task import Task
from tskd_monai.distillation.refiner import Agreement
from tskd_monai.distillation.target_images import TargetImage, TargetImages
from tskd_monai.evaluation.report.panels import label_colours, render_panel
from tskd_monai.evaluation.report.targets_section import COLUMNS, SHEET_NAME, TABLE_NAME
from tskd_monai.evaluation.summary import class_means, finite_mean
from tskd_monai.files.atomic import atomic_path
from tskd_monai.losses.marginal_dice_ce import is_measured, may_be

SHOWN = 6
TILE = 240  # pixels
LINE = 14  # pixels of a line of text
REPLACED, MIXED, KEPT = "replaced", "mixed", "kept"

Compare = Callable[[TargetImage], tuple[Tensor, Tensor, dict[int, Agreement]]]
"""Returns the classes (H, W) of an image before and after refinement, and the agreement of each class."""


def overlap_counts(before: Tensor, after: Tensor, label: Tensor, names: Sequence[str]) -> dict[str, list[int]]:
    """Returns pixel counts of each foreground class by name, from which Dice over a whole case follows.

    Args:
        before: classes (H, W) of the average of the sources.
        after: classes (H, W) of the target.
        label: classes (H, W) of the reference; of a partly labelled one, unknown pixels are not counted.
        names: name of each class, background first.

    Returns:
        Counts of before and reference together, before, after and reference together, after, and reference.
    """
    counts = {}
    for class_, name in enumerate(names[1:], start=1):
        known = ~may_be(label, class_) if is_measured(label, class_) else torch.zeros_like(label, dtype=torch.bool)
        first, last, true = ((classes == class_) & known for classes in (before, after, label))
        counts[name] = [int(mask.sum()) for mask in (first & true, first, last & true, last, true)]
    return counts


def write_table(
    output_dir: Path, entries: Sequence[Mapping[str, Any]], cases: Sequence[str], task: Task
) -> dict[str, float | None]:
    """Writes `targets.csv`, a row for each case and class, and returns the means over the cases.

    Args:
        output_dir: folder of the table; nothing is written without entries.
        entries: `overlap` and `refined` of each measured image.
        cases: case of each measured image.
        task: task with the classes.
    """
    if not entries:
        return {}
    rows = [
        _row(case, value, name, [entry for entry, own in zip(entries, cases, strict=True) if own == case])
        for case in dict.fromkeys(cases)
        for value, name in task.foreground.items()
    ]
    with atomic_path(output_dir / TABLE_NAME) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows([{name: _cell(value) for name, value in row.items()} for row in rows])
    means = {name: finite_mean(class_means(rows, name).values()) for name in ("dice_source", "dice_target")}
    return {name: None if value != value else round(value, 6) for name, value in means.items()}


def _row(case: str, value: int, name: str, entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first_true, first, last_true, last, true = np.sum([entry["overlap"][name] for entry in entries], axis=0).tolist()
    outcomes = [_outcome(entry["refined"][name]["weight"]) for entry in entries if name in entry["refined"]]
    return {
        "case": case,
        "label": value,
        "name": name,
        "dice_source": 2 * first_true / (first + true) if first + true else np.nan,
        "dice_target": 2 * last_true / (last + true) if last + true else np.nan,
        "prompted": len(outcomes),
        **{outcome: outcomes.count(outcome) for outcome in (REPLACED, MIXED, KEPT)},
    }


def _cell(value: Any) -> Any:
    return ("" if value != value else f"{value:.6f}") if isinstance(value, float) else value


def _outcome(weight: float) -> str:
    return REPLACED if weight == 1 else MIXED if weight else KEPT


def write_sheet(
    output_dir: Path, images: TargetImages, compare: Compare, entries: Sequence[Mapping[str, Any]], task: Task
) -> None:
    """Writes the contact sheet `targets.png`: image, average of the sources, target, and reference if there is one.

    Of the measured images it shows those that refinement has improved and harmed most; without a difference, or without
    measured images, those with most foreground or in even steps. Cases are not named.

    Args:
        output_dir: folder of the sheet.
        images: images of the stage.
        compare: returns the maps of an image.
        entries: `overlap` of each measured image.
        task: task with the classes.
    """
    shown = [images.measured[index] for index in _most_changed(entries)] or _evenly(images.transfer)
    rows = [_sheet_row(item, *compare(item), task) for item in shown]
    width, height = max(row.width for row in rows), sum(row.height for row in rows)
    sheet = Image.new("RGB", (width, height), "white")
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    with atomic_path(output_dir / SHEET_NAME) as temporary:
        sheet.save(temporary, format="PNG")


def _most_changed(entries: Sequence[Mapping[str, Any]]) -> list[int]:
    """Returns the indices of up to six images: the largest gains, then the largest losses, then the fullest."""
    changes, areas = [], []
    for entry in entries:
        counts = np.array(list(entry["overlap"].values()), dtype=float)
        dice = [2 * counts[:, part] / np.maximum(counts[:, part + 1] + counts[:, 4], 1) for part in (0, 2)]
        changes.append(float((dice[1] - dice[0]).mean()))
        areas.append(float(counts[:, 4].sum()))
    order = sorted(range(len(entries)), key=lambda index: changes[index])
    losses = [index for index in order[: SHOWN // 2] if changes[index] < 0]
    gains = [index for index in order[::-1][: SHOWN - len(losses)] if changes[index] > 0]
    fullest = sorted(range(len(entries)), key=lambda index: -areas[index])
    return list(dict.fromkeys([*gains, *losses, *fullest]))[:SHOWN]


def _evenly(items: Sequence[TargetImage]) -> list[TargetImage]:
    count = min(SHOWN, len(items))
    return [items[(2 * index + 1) * len(items) // (2 * count)] for index in range(count)]


def _sheet_row(
    item: TargetImage, before: Tensor, after: Tensor, agreements: Mapping[int, Agreement], task: Task
) -> Image.Image:
    maps: list[tuple[str, Tensor | None]] = [("image", None), ("average of the sources", before), ("target", after)]
    if item.label is not None:
        maps.append(("reference", item.label[0].long().clamp(min=0)))
    colours = dict(enumerate(label_colours(task.foreground).values(), start=1))
    pixels = (255 * item.image.movedim(0, -1).clamp(0, 1)).round().byte().numpy()
    pixels = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    tiles = [
        _tile(render_panel(pixels, None if classes is None else classes.numpy(), colours, task.pixdim))
        for _, classes in maps
    ]
    words = [
        f"{task.labels[class_].name}: IoU {found.iou:.2f}, {_outcome(found.weight)}"
        for class_, found in agreements.items()
    ]
    height = max(tiles[0].height + LINE, LINE * (len(words) + 1))
    row = Image.new("RGB", (len(tiles) * (TILE + 4) + TILE, height + 6), "white")
    draw = ImageDraw.Draw(row)
    for index, (tile, (title, _)) in enumerate(zip(tiles, maps, strict=True)):
        draw.text((index * (TILE + 4), 0), title, fill="black")
        row.paste(tile, (index * (TILE + 4), LINE))
    for line, text in enumerate(words, start=1):
        draw.text((len(tiles) * (TILE + 4), line * LINE), text, fill="black")
    return row


def _tile(png: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(png))
    return picture.resize((TILE, max(1, round(TILE * picture.height / picture.width))), Image.Resampling.LANCZOS)

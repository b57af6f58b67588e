"""How far an exported network is from the one it was made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import torch
from monai.metrics import compute_dice
from monai.networks.utils import one_hot
from torch import Tensor

from tskd_monai.data.task import Task
from tskd_monai.inference.engines import Predictor
from tskd_monai.transforms.pipelines import training_preprocessing

MAX_DICE_DROP = 0.005
"""Half a Dice point: an engine that loses as much on the validation images is not accepted."""

WINDOWS_AT_ONCE = 8


@dataclass(frozen=True)
class Case:
    """One image at the network's resolution.

    Attributes:
        windows: its slices, (D, C, H, W).
        classes: network classes of its label, (D, H, W); None without one.
    """

    windows: Tensor
    classes: Tensor | None = None


@dataclass
class _Sums:
    """What one engine differed by so far."""

    largest: float = 0.0
    disagreeing: int = 0
    pixels: int = 0
    dice: list[float] = field(default_factory=list)


def load_cases(entries: Sequence[Mapping[str, str]], task: Task) -> Iterator[Case]:
    """Yields the cases of a datalist's entries, padded or cropped to the task's image size.

    Args:
        entries: with `image` and perhaps `label`.
        task: of the student.
    """
    for entry in entries:
        keys = [key for key in ("image", "label") if key in entry]
        item = training_preprocessing(task, keys)({key: entry[key] for key in keys})
        label = item["label"].as_tensor()[0].movedim(-1, 0).long() if "label" in item else None
        yield Case(item["image"].as_tensor().movedim(-1, 0).contiguous(), label)


def random_case(task: Task, seed: int = 0) -> Case:
    """Returns a case of noise in [0, 1]: enough to tell whether an export computes the same, not whether it is good."""
    shape = (WINDOWS_AT_ONCE, task.channels, *task.image_size)
    return Case(torch.rand(shape, generator=torch.Generator().manual_seed(seed)))


@torch.no_grad()
def parity_rows(
    reference: Predictor, candidates: Mapping[tuple[str, str], Predictor], cases: Sequence[Case], num_classes: int
) -> list[dict[str, Any]]:
    """Returns one row for the reference and one for each candidate.

    Args:
        reference: the network itself.
        candidates: (engine, precision) -> what runs its export.
        cases: to compare on.
        num_classes: K.

    Returns:
        Rows with `engine`, `precision`, `max_difference` of logits, `disagreeing_share` of the pixels whose class
        differs, `dice` (mean over cases of the mean over the classes of foreground present; None without labels), and
        `accepted`: whether that Dice is less than half a point below the reference's. Without labels fp32 alone is.
    """
    predictors: dict[tuple[str, str], Predictor] = {("torch", "fp32"): reference, **candidates}
    sums = {key: _Sums() for key in predictors}
    for case in cases:
        expected = _logits(reference, case.windows)
        for key, predict in predictors.items():
            found = expected if predict is reference else _logits(predict, case.windows)
            _add(sums[key], found, expected, case.classes, num_classes)
    best = sums["torch", "fp32"].dice
    return [_row(key, of_one, fmean(best) if best else None) for key, of_one in sums.items()]


def parity_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the rows as a Markdown table."""
    lines = [
        "| engine | precision | max difference of logits | pixels of another class | Dice | accepted |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        dice = "" if row["dice"] is None else f"{row['dice']:.4f}"
        lines.append(
            f"| {row['engine']} | {row['precision']} | {row['max_difference']:.2g} | "
            f"{100 * row['disagreeing_share']:.4f} % | {dice} | {'yes' if row['accepted'] else 'no'} |"
        )
    return "\n".join(lines) + "\n"


def _logits(predict: Predictor, windows: Tensor) -> Tensor:
    return torch.cat([predict(few) for few in windows.split(WINDOWS_AT_ONCE)])


def _add(sums: _Sums, found: Tensor, expected: Tensor, classes: Tensor | None, num_classes: int) -> None:
    predicted = found.argmax(dim=1)
    sums.largest = max(sums.largest, float((found - expected).abs().max()))
    sums.disagreeing += int((predicted != expected.argmax(dim=1)).sum())
    sums.pixels += predicted.numel()
    if classes is not None:
        prediction, label = (one_hot(each[None, None], num_classes) for each in (predicted, classes))
        dice = compute_dice(prediction, label, include_background=False)
        if not dice.isnan().all():
            sums.dice.append(float(dice.nanmean()))


def _row(key: tuple[str, str], sums: _Sums, reference_dice: float | None) -> dict[str, Any]:
    dice = fmean(sums.dice) if sums.dice else None
    measured = dice is not None and reference_dice is not None
    accepted = reference_dice - dice < MAX_DICE_DROP if measured else key[1] == "fp32"  # type: ignore[operator]
    return {
        "engine": key[0],
        "precision": key[1],
        "max_difference": sums.largest,
        "disagreeing_share": sums.disagreeing / sums.pixels,
        "dice": dice,
        "accepted": accepted,
    }

"""The verdict on a case: `ok`, `look` or `reject`, and the reasons in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from tskd_monai.data.fitness import short_number
from tskd_monai.data.task import QualityLimits
from tskd_monai.trust.dice_model import PredictedDice
from tskd_monai.trust.quality_file import Quality
from tskd_monai.trust.reference import StructureReference
from tskd_monai.trust.signals import CaseSignals, StructureSignals

OK, LOOK, REJECT, NOT_ASSESSED = "ok", "look", "reject", "not assessed"
RANGE_FACTOR = 1.25
"""Tolerance of field of view, slice distance and length beyond those of the training images."""
FAR_OUTSIDE = 2.0
"""Risk of values and pixels that are far outside of those of the training images, such as Hounsfield units for an MR
student; such a case is rejected."""
OTHER_REGION = 2.0
"""Factor beyond the fields of view of the training images from which a case is rejected, if pixels
have a size in mm: another part of the body."""
WORDS = {"field_of_view": "field of view", "slice_distance": "slice distance", "length": "length of the scan"}


@dataclass(frozen=True)
class Finding:
    """Something unusual in a case.

    Attributes:
        text: what it is, in words.
        risk: size relative to the limit from which a person should look.
    """

    text: str
    risk: float


@dataclass(frozen=True)
class CaseQuality:
    """How far the segmentation of a case can be trusted.

    Attributes:
        verdict: `ok`, `look` or `reject`.
        reasons: why it is not `ok`, the most important first.
        risk: the largest finding relative to its limit: above 1, a person should look; orders the cases.
        distance: distance of the features, in multiples of the most unusual training patient's.
        dice: predicted Dice by structure.
    """

    verdict: str
    reasons: tuple[str, ...]
    risk: float
    distance: float
    dice: Mapping[str, PredictedDice]


def case_quality(
    signals: CaseSignals, quality: Quality, limits: QualityLimits, unit: str = "mm", unlike: str = ""
) -> CaseQuality:
    """Returns predicted Dice and verdict of a case.

    Args:
        signals: signals of the case.
        quality: content of the student's quality file.
        limits: limits of the verdict.
        unit: `mm`, or `pixels` for images without a spacing.
        unlike: what `CompareWithTrainingd` found, separated by semicolons; "" for nothing.
    """
    reference = quality.reference
    distance = reference.features.distance(signals.descriptors)
    rows = {name: reference.row(name, found, distance) for name, found in signals.structures.items()}
    dice = {name: quality.dice.predict(row) for name, row in rows.items()}
    expected = fmean(dice[name].value for name in dice)
    findings = [
        *_unlike(distance, limits),
        *_ranges(signals, quality, unit),
        *_far_outside(unlike),
        *(
            finding
            for name, found in signals.structures.items()
            for finding in _structure(name, found, reference.structures[name], dice[name], limits)
        ),
    ]
    findings.sort(key=lambda finding: -finding.risk)
    risk = max((finding.risk for finding in findings), default=0.0)
    reasons = tuple(finding.text for finding in findings if finding.risk > 1)
    verdict = LOOK if reasons else OK
    elsewhere = unit == "mm" and _beyond(signals.field_of_view, reference.ranges.get("field_of_view")) > OTHER_REGION
    if distance > limits.reject_distance or expected < limits.reject_dice or elsewhere or any(_far_outside(unlike)):
        verdict = REJECT
    return CaseQuality(verdict, reasons, risk, distance, dice)


def _unlike(distance: float, limits: QualityLimits) -> list[Finding]:
    text = f"unlike the training images: features {distance:.1f} times as far as those of any training patient"
    return [Finding(text, distance / limits.look_distance)]


def _ranges(signals: CaseSignals, quality: Quality, unit: str) -> Iterator[Finding]:
    for name, (low, high) in quality.reference.ranges.items():
        value = getattr(signals, name)
        if value is None:
            yield Finding("a single slice, in training volumes", 1.1 if name == "length" else 0.0)
            continue
        span = " to ".join(dict.fromkeys(map(short_number, (low, high))))
        text = f"{WORDS[name]} {short_number(value)} {unit}, in training {span} {unit}"
        yield Finding(text, max(_beyond(value, (low, high)) - 1, 0.0) / (RANGE_FACTOR - 1))


def _beyond(value: float | None, span: Sequence[float] | None) -> float:
    """Returns the factor by which a value is beyond a range; at most 1 within it, 0 if one of them is unknown."""
    return 0.0 if value is None or span is None else max(value / span[1], span[0] / value)


def _far_outside(unlike: str) -> Iterator[Finding]:
    """Yields what is far outside of the training images' ranges, unless `_ranges` states it, within narrower ranges."""
    stated = tuple(WORDS.values())
    for text in unlike.split("; ") if unlike else ():
        if not text.startswith(stated):
            yield Finding(text, FAR_OUTSIDE)


def _structure(
    name: str, found: StructureSignals, reference: StructureReference, dice: PredictedDice, limits: QualityLimits
) -> Iterator[Finding]:
    shape = found.shape
    if not shape.volume:
        yield Finding(f"{name}: not found", 1.5 * reference.present)
        return
    yield Finding(f"{name}: predicted Dice {dice.value:.2f}", (1 - dice.value) / (1 - limits.look_dice))
    parts = "two parts of equal size" if shape.second_part > 0.8 else "two large parts"
    yield Finding(f"{name}: {parts}", shape.second_part / limits.look_second_part)
    yield Finding(f"{name} cut off by the first or last slice", (shape.cut - reference.cut) / limits.look_cut)
    words = {"volume": "unusual volume", "position": "unusual position", "extent": "unusual number of slices"}
    for key, z in reference.z(shape).items():
        yield Finding(f"{name}: {words[key]}", z / limits.look_deviations)


def as_record(quality: CaseQuality) -> dict[str, Any]:
    """Returns the quality of a case for its record, `summary.json` and the metadata of its label map."""
    return {
        "verdict": quality.verdict,
        "reasons": list(quality.reasons),
        "risk": round(quality.risk, 3),
        "distance": round(quality.distance, 3),
        "predicted_dice": {
            name: [round(value, 3) for value in (dice.value, dice.low, dice.high)]
            for name, dice in quality.dice.items()
        },
    }

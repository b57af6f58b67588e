"""`gates.json`: measurements of the gates of a transfer set, beside their `contact_sheet.png`.

This module defines the file: `tskd_monai.synthesis.gates` fills and writes it, the report reads it. The results of the
gates for each image are in the manifest of the transfer set, see `tskd_monai.data.transfer_set`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tskd_monai.data.verdict import Verdict, read_verdict
from tskd_monai.files.json_files import read_json, write_json

FORMAT_VERSION = 2
EARLIER_VERSIONS = (1,)
"""Versions without sharpness and verdict; their training interval is of images, not of groups of patients."""

GATES_NAME = "gates.json"
SHEET_NAME = "contact_sheet.png"
SETS = ("synthetic", "training")
COUNTS = ("sampled", "accepted", "near_copies", "low_confidence")
DECIMALS = 6


@dataclass(frozen=True)
class Scores:
    """Measurements of one gate on every image; an image below the threshold is dropped.

    Attributes:
        threshold: low quantile of `real`.
        real: values of the real images that the threshold is derived from.
        synthetic: values of all sampled images, dropped ones included.
    """

    threshold: float
    real: tuple[float, ...]
    synthetic: tuple[float, ...]


@dataclass(frozen=True)
class Interval:
    """A mean over random draws with the interval that contains 95 % of the draws."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Gates:
    """Measurements, counts and settings of the gates.

    Attributes:
        task_hash: hash of the task of the images.
        checkpoint_sha256: sha256 of the diffusion model that sampled them.
        confidence: the teacher's confidence in [0, 1], mean over predicted classes; None when it was not measured.
        pixels: root mean square difference to the nearest training image after flips and shifts.
        features: cosine distance to the nearest training image in the features of the encoder.
        kid_synthetic: kernel inception distance of synthetic to validation images.
        kid_training: kernel inception distance of training to validation images; each draw is of as many training
            patients as the validation section has.
        ms_ssim_synthetic: multi-scale structural similarity of pairs of synthetic images.
        ms_ssim_training: multi-scale structural similarity of pairs of training images.
        counts: number of images that are sampled, accepted, near_copies and of low_confidence.
        encoder: name of the encoder whose features are compared.
        confidence_quantile: quantile of the validation images at the threshold of confidence.
        near_copy_quantile: quantile of the training images at the thresholds of distance.
        kid_subset_size: images of each set in a draw.
        kid_subsets: number of draws.
        seed: seed of the draws.
        sharpness_synthetic: median sharpness of synthetic images; None in files of version 1.
        sharpness_training: median sharpness of training images, in draws of patients as for the distance.
        verdict: verdict on the whole set; None in files of version 1.
        derived: whether the images are variations of real slices: derivatives of patients' images.
    """

    task_hash: str
    checkpoint_sha256: str
    confidence: Scores | None
    pixels: Scores
    features: Scores
    kid_synthetic: Interval
    kid_training: Interval
    ms_ssim_synthetic: Interval
    ms_ssim_training: Interval
    counts: Mapping[str, int]
    encoder: str
    confidence_quantile: float
    near_copy_quantile: float
    kid_subset_size: int
    kid_subsets: int
    seed: int
    sharpness_synthetic: Interval | None = None
    sharpness_training: Interval | None = None
    verdict: Verdict | None = None
    derived: bool = False

    @property
    def is_used(self) -> bool:
        """Whether a student learns from the accepted images; a set without a verdict is used."""
        return self.counts["accepted"] > 0 and (self.verdict is None or self.verdict.used)

    @property
    def sentence(self) -> str:
        """The verdict as a sentence, or why there is none."""
        if self.verdict is not None:
            return self.verdict.sentence
        if not self.counts["accepted"]:
            return "The gates rejected every synthetic image."
        return "The gates of an earlier version judged each image, not the whole set, which was used."

    def content(self) -> dict[str, Any]:
        """Returns the content of `gates.json`."""
        return {
            "format_version": FORMAT_VERSION,
            "task_hash": self.task_hash,
            "checkpoint_sha256": self.checkpoint_sha256,
            "derived": self.derived,
            "settings": {
                "confidence_quantile": self.confidence_quantile,
                "near_copy_quantile": self.near_copy_quantile,
                "encoder": self.encoder,
                "kid_subset_size": self.kid_subset_size,
                "kid_subsets": self.kid_subsets,
                "seed": self.seed,
            },
            "confidence": None if self.confidence is None else _scores_content(self.confidence, "validation"),
            "memorisation": {
                "pixels": _scores_content(self.pixels, "real"),
                "features": _scores_content(self.features, "real"),
            },
            "quality": {
                "kid": {
                    "synthetic_validation": asdict(self.kid_synthetic),
                    "training_validation": asdict(self.kid_training),
                },
                "ms_ssim": {"synthetic": asdict(self.ms_ssim_synthetic), "training": asdict(self.ms_ssim_training)},
                "sharpness": {
                    "synthetic": _optional(self.sharpness_synthetic),
                    "training": _optional(self.sharpness_training),
                },
            },
            "verdict": None if self.verdict is None else self.verdict.content(),
            "counts": dict(self.counts),
        }


def write_gates(gates: Gates, folder: str | Path) -> None:
    """Writes `gates.json` into a folder."""
    write_json(Path(folder) / GATES_NAME, gates.content())


def _optional(interval: Interval | None) -> dict[str, float] | None:
    return None if interval is None else asdict(interval)


def _scores_content(scores: Scores, real: str) -> dict[str, Any]:
    return {"threshold": scores.threshold, real: _rounded(scores.real), "synthetic": _rounded(scores.synthetic)}


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, DECIMALS) for value in values]


class _File:
    """A JSON file whose fields are read by their path, as in `counts.sampled`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content = read_json(path)

    def value(self, field: str) -> Any:
        inner = self.content
        for part in field.split("."):
            if not isinstance(inner, dict) or part not in inner:
                raise self.error("a value", field, "none")
            inner = inner[part]
        return inner

    def error(self, expected: str, field: str, found: object) -> ValueError:
        return ValueError(f"Expected {expected} at {field} in {self.path}, found {found}; run the gates again.")

    def number(self, field: str) -> float:
        value = self.value(field)
        if not _is_number(value):
            raise self.error("a finite number", field, repr(value))
        return float(value)

    def whole(self, field: str, least: int) -> int:
        value = self.value(field)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise self.error(f"a whole number of at least {least}", field, repr(value))
        return value

    def switch(self, field: str) -> bool:
        """Returns a boolean, False in a file that lacks it."""
        value = self.content.get(field, False)
        if not isinstance(value, bool):
            raise self.error("true or false", field, repr(value))
        return value

    def quantile(self, field: str) -> float:
        value = self.number(field)
        if not 0 < value < 1:
            raise self.error("a quantile between 0 and 1", field, value)
        return value

    def text(self, field: str) -> str:
        value = self.value(field)
        if not isinstance(value, str) or not value:
            raise self.error("a text", field, repr(value))
        return value

    def numbers(self, field: str) -> tuple[float, ...]:
        values = self.value(field)
        if not isinstance(values, list) or not values:
            raise self.error("a list of at least one number", field, repr(values)[:40])
        for index, value in enumerate(values):
            if not _is_number(value):
                raise self.error("a finite number", f"{field}[{index}]", repr(value))
        return tuple(map(float, values))

    def scores(self, field: str, real: str) -> Scores:
        return Scores(
            self.number(f"{field}.threshold"), self.numbers(f"{field}.{real}"), self.numbers(f"{field}.synthetic")
        )

    def interval(self, field: str) -> Interval:
        interval = Interval(*(self.number(f"{field}.{name}") for name in ("mean", "low", "high")))
        if interval.low > interval.high:
            raise self.error("low <= high", field, f"{interval.low} > {interval.high}")
        return interval

    def optional(self, field: str) -> Interval | None:
        return None if self.value(field) is None else self.interval(field)


def read_gates(folder: Path) -> Gates:
    """Returns the measurements of the gates, from the `gates.json` in their output folder.

    Raises:
        FileNotFoundError: if there is no `gates.json`.
        ValueError: if it is of an unknown version, or a field is missing or out of range; names file and field.
    """
    path = Path(folder) / GATES_NAME
    if not path.is_file():
        raise FileNotFoundError(
            f"Expected {GATES_NAME} in {folder}, found none; run the gates, or leave them out of the report."
        )
    file = _File(path)
    version = file.value("format_version")
    if version != FORMAT_VERSION and version not in EARLIER_VERSIONS:
        raise file.error(f"1 or {FORMAT_VERSION}", "format_version", repr(version))
    sharpness = {name: None if version == 1 else file.optional(f"quality.sharpness.{name}") for name in SETS}
    return Gates(
        task_hash=file.text("task_hash"),
        checkpoint_sha256=file.text("checkpoint_sha256"),
        confidence=None if file.value("confidence") is None else file.scores("confidence", "validation"),
        pixels=file.scores("memorisation.pixels", "real"),
        features=file.scores("memorisation.features", "real"),
        kid_synthetic=file.interval("quality.kid.synthetic_validation"),
        kid_training=file.interval("quality.kid.training_validation"),
        ms_ssim_synthetic=file.interval("quality.ms_ssim.synthetic"),
        ms_ssim_training=file.interval("quality.ms_ssim.training"),
        counts=_counts(file),
        encoder=file.text("settings.encoder"),
        confidence_quantile=file.quantile("settings.confidence_quantile"),
        near_copy_quantile=file.quantile("settings.near_copy_quantile"),
        kid_subset_size=file.whole("settings.kid_subset_size", 2),
        kid_subsets=file.whole("settings.kid_subsets", 1),
        seed=file.whole("settings.seed", 0),
        sharpness_synthetic=sharpness["synthetic"],
        sharpness_training=sharpness["training"],
        verdict=read_verdict(file.content, str(path)),
        derived=file.switch("derived"),
    )


def _counts(file: _File) -> dict[str, int]:
    counts = {name: file.whole(f"counts.{name}", 1 if name == "sampled" else 0) for name in COUNTS}
    for name, count in counts.items():
        if count > counts["sampled"]:
            raise file.error(f"at most the {counts['sampled']} sampled images", f"counts.{name}", count)
    return counts


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

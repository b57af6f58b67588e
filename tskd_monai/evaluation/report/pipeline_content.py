"""Content of a pipeline's report: methods, cases and images, all given as files on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tskd_monai.evaluation.summary import Row, class_means, read_metrics
from tskd_monai.files.json_files import is_a


@dataclass(frozen=True)
class Method:
    """One method and its results on disk; a value of None is shown as unknown.

    Attributes:
        key: short name, unique in the report.
        title: name shown to the reader.
        metrics_csv: file written by `tskd_monai.evaluation.metrics.evaluate_cases`.
        predictions: case -> predicted label map; None leaves the method out of the overlays.
        parameters: number of parameters of the network that runs at inference.
        trainable_parameters: how many of them were trained.
        latency_ms: duration of one forward pass on CPU, ms.
        history: history.jsonl of its training run, one row per epoch.
        seconds: wall-clock time of its training run.
    """

    key: str
    title: str
    metrics_csv: Path
    predictions: Mapping[str, Path] | None = None
    parameters: int | None = None
    trainable_parameters: int | None = None
    latency_ms: float | None = None
    history: Path | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class PipelineContent:
    """Everything that the report of a pipeline shows.

    Attributes:
        title: heading of the report.
        summary: one or two sentences on what was done, in plain text.
        methods: methods in the order of the tables; all evaluated on the same cases.
        comparison: key of the method of interest, then those of its baselines, if any; a difference is first minus
            baseline.
        labels: value -> name of the foreground labels.
        cases: test entries {"case", "image", "label"}; files of volumes or 2D images.
        synthetic_images: images of the transfer set made by the diffusion model; may be empty.
        real_images: real training images to show beside them; may be empty.
        settings: settings of the run, shown as a table.
        notes: sentences that the reader must know, shown as a list.
        gates: folder with the `gates.json` and `contact_sheet.png` of the transfer set; None leaves the gates out.
        targets: folder with the `targets.csv` and `targets.png` of the student's targets; None leaves them out.
        ignore: value of voxels to ignore in the labels; None: there are none.
    """

    title: str
    summary: str
    methods: Sequence[Method]
    comparison: tuple[str, ...]
    labels: Mapping[int, str]
    cases: Sequence[Mapping[str, Any]]
    synthetic_images: Sequence[Path] = ()
    real_images: Sequence[Path] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    gates: Path | None = None
    targets: Path | None = None
    ignore: int | None = None

    def __post_init__(self) -> None:
        keys = [method.key for method in self.methods]
        if len(set(keys)) != len(keys) or not keys:
            raise ValueError(f"Expected methods with different keys in the report, found {keys}.")
        unknown = [key for key in self.comparison if key not in keys]
        if unknown or not self.comparison or len(set(self.comparison)) < len(self.comparison):
            raise ValueError(
                f"Expected comparison to name different ones of the methods {keys}, found {list(self.comparison)}."
            )


@dataclass(frozen=True)
class Result:
    """A method with its results: rows of metrics, Dice per patient (class mean) and rows of history."""

    method: Method
    rows: list[Row]
    dice: dict[str, float]
    history: list[dict[str, Any]]


def read_results(content: PipelineContent) -> dict[str, Result]:
    """Returns key -> result for every method, in their order.

    Raises:
        FileNotFoundError: if metrics or a named history are missing.
        ValueError: if a file cannot be read, lacks a label, or two methods were evaluated on different cases.
    """
    results = {}
    for method in content.methods:
        rows = read_metrics(method.metrics_csv)
        absent = sorted(set(content.labels) - {row["label"] for row in rows})
        if absent:
            raise ValueError(f"Expected the labels {sorted(content.labels)} in {method.metrics_csv}, missing {absent}.")
        history = [] if method.history is None else read_history(method.history)
        results[method.key] = Result(method, rows, class_means(rows), history)
    first = next(iter(results.values()))
    for result in results.values():
        if set(result.dice) != set(first.dice):
            raise ValueError(
                f"Expected the cases {sorted(first.dice)} of {first.method.metrics_csv} in "
                f"{result.method.metrics_csv}, found {sorted(result.dice)}; evaluate all methods on the same cases."
            )
    return results


def read_history(path: Path) -> list[dict[str, Any]]:
    """Returns the rows of a history.jsonl; a last line cut off by an interruption is dropped.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file is not text, a line before the last is not JSON or a row has no number train_loss; names
            the file and the line.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"Expected the training history at {path}, found no file; pass None to leave it out.")
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"Expected text in {path}, found a damaged file ({error}); run the training again.") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)  # a loss may be NaN, which `parse_json` rejects
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                break
            raise ValueError(f"Expected one JSON object per line in {path}, found {error} in line {number}.") from error
        if not isinstance(row, dict) or not is_a(row.get("train_loss"), float):
            raise ValueError(
                f"Expected a row with a number train_loss in line {number} of {path}, found {line[:80]!r}."
            )
        rows.append(row)
    return rows

"""Overlap, surface distance and volume of predicted label maps, per case and class, in 3D.

Surfaces are MONAI's: a voxel belongs to the surface when a neighbour across a face is outside, voxels at the border of
the volume included, and every surface voxel counts once. HD95, ASSD and NSD therefore equal
`monai.metrics.compute_hausdorff_distance(percentile=95)`, `compute_average_surface_distance(symmetric=True)` and
`compute_surface_dice`, but the surfaces and distances are found once instead of three times.

Their error, for two balls of radius 30 mm, 6 mm apart (exact: HD95 5.70, ASSD 3.00 mm): 5.48 and
2.86 at 1 mm voxels; at 1.25 x 1.25 x 7.7 mm, 5.15 and 1.59 for a shift in the plane, 7.70 and 2.81 across it. The
area-weighted surfaces of MONAI (`use_subvoxels`) gave 5.20 and 2.59; 5.15 and 1.86; 7.70 and 1.81: no closer
overall. With thick slices distances rank methods on the same scans; do not compare their values across datasets.

Conventions for empty classes (those of nnU-Net for the overlap):

| prediction | reference | Dice, IoU, NSD | HD95, ASSD | missed |
|---|---|---|---|---|
| empty | empty | NaN, left out of means | NaN | 0 |
| one of the two empty | | 0 | NaN, left out of means | 1 |

A mean distance says nothing about the cases it leaves out, so read it together with the count of `missed`.

Voxels to ignore are background in both maps, as in nnU-Net; where a structure reaches them, their border is a surface
of both. Of a structure that was not drawn in a case, only the predicted volume is known; the rest is NaN, `missed` 0.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from monai.metrics import get_mask_edges, get_surface_distance
from scipy import ndimage
from tqdm import tqdm

from tskd_monai.data.drawn_structures import DRAWN, undrawn_classes
from tskd_monai.data.image_file import is_image_file
from tskd_monai.evaluation.label_maps import LabelMap, load_prediction, load_reference, load_second_reader
from tskd_monai.evaluation.summary import COLUMNS, IN_PIXELS, NUMBERS, Row, pixel_names, summarise
from tskd_monai.files.atomic import atomic_path
from tskd_monai.files.json_files import write_json

NSD_TOLERANCE_MM = 2.0
SECOND_READER = "second_reader"


def case_metrics(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing: tuple[float, float, float],
    labels: Mapping[int, str],
    nsd_tolerance_mm: float = NSD_TOLERANCE_MM,
) -> list[Row]:
    """Returns one row of metrics per label: how well `prediction` agrees with `reference`.

    Args:
        prediction: (H, W, D) integer label map. With one axis of length 1 (a 2D image) surfaces are contours.
        reference: (H, W, D) integer label map on the same grid.
        spacing: mm per voxel along each of the three axes.
        labels: value -> name of the foreground labels; every other value counts as background.
        nsd_tolerance_mm: distance in mm up to which a surface voxel counts as correct in NSD.

    Returns:
        Rows with label, name, dice, iou, nsd in [0, 1], hd95_mm, assd_mm, volume_ml, reference_volume_ml, missed.

    Raises:
        ValueError: if shapes differ or are not 3D, spacing or tolerance is not positive, or 0 is among the labels.
        TypeError: if a map does not contain integers.
    """
    _check_arguments(prediction, reference, spacing, labels, nsd_tolerance_mm)
    rows = []
    for label, name in labels.items():
        predicted, expected = prediction == label, reference == label
        row: Row = {"label": int(label), "name": name}
        row |= _class_metrics(predicted, expected, spacing, nsd_tolerance_mm)
        rows.append(row)
    return rows


def evaluate_case(
    prediction_path: Path,
    reference_path: Path,
    labels: Mapping[int, str],
    case: str,
    nsd_tolerance_mm: float = NSD_TOLERANCE_MM,
) -> list[Row]:
    """Returns the rows of `case_metrics` for two files, each with its `case`.

    Volumes carry their spacing. 2D image files have none: a pixel counts as 1 mm x 1 mm x 1 mm, so distances are
    pixels.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if the grids differ, or either file holds a value that is neither a label nor 0.
    """
    reference = load_reference(reference_path, labels)
    prediction = load_prediction(prediction_path, reference, labels)
    return _agreement(prediction, reference, labels, case, nsd_tolerance_mm)


def evaluate_cases(
    cases: Sequence[Mapping[str, Any]],
    labels: Mapping[int, str],
    output_csv: Path,
    nsd_tolerance_mm: float = NSD_TOLERANCE_MM,
    seed: int = 0,
    ignore: int | None = None,
) -> dict[str, Any]:
    """Writes the metrics of every case to `output_csv` and their summary beside it (suffix .json); returns the summary.

    Args:
        cases: entries with "case" (the patient), "label" and "prediction" (files). A patient may have several entries,
            such as two eyes; the summary averages them first. With "second_reader", the label map of another reader,
            the agreement of the two readers is measured by the same code on the same grid. With "structures", the names
            of those that were drawn, only these are measured.
        labels: value -> name of the foreground labels.
        output_csv: file to write, for instance `metrics.csv`; empty cells are NaN. Where all labels are 2D image files,
            distances and sizes are in pixels there and in the summary, and their names state it.
        nsd_tolerance_mm: tolerance of NSD in mm.
        seed: seed of the bootstrap interval.
        ignore: value of voxels in the labels to leave out; None: there are none.

    Returns:
        The summary, see `tskd_monai.evaluation.summary.summarise`; under "second_reader" the same for the second reader
        against the reference, on the images that have one, with its rows in `second_reader_csv`.
    """
    if not cases:
        raise ValueError("Expected at least one case to evaluate, found none.")
    for number, entry in enumerate(cases):
        missing = [key for key in ("case", "label", "prediction") if key not in entry]
        if missing:
            raise ValueError(f"Expected case, label and prediction in entry {number} of the cases, missing {missing}.")
    rows: list[Row] = []
    second_rows: list[Row] = []
    for entry in tqdm(cases, desc="Evaluating", unit="case"):
        reference, case = load_reference(Path(entry["label"]), labels, ignore), str(entry["case"])
        prediction = load_prediction(Path(entry["prediction"]), reference, labels)
        undrawn = undrawn_classes(entry.get(DRAWN), ["background", *labels.values()], f"case {case}")
        measure = partial(_agreement, labels=labels, case=case, nsd_tolerance_mm=nsd_tolerance_mm, undrawn=undrawn)
        rows += measure(prediction, reference)
        if SECOND_READER in entry:
            second_rows += measure(load_second_reader(Path(entry[SECOND_READER]), reference, labels, ignore), reference)
    pixels = all(is_image_file(entry["label"]) for entry in cases)
    summary = _summary(rows, pixels, len(cases), seed)
    summary[f"nsd_tolerance_{'px' if pixels else 'mm'}"] = nsd_tolerance_mm
    output_csv = Path(output_csv)
    second_csv = second_reader_csv(output_csv)
    if second_rows:
        images = sum(SECOND_READER in entry for entry in cases)
        summary[SECOND_READER] = _summary(second_rows, pixels, images, seed)
        _write_csv(second_csv, second_rows, pixels)
    else:
        second_csv.unlink(missing_ok=True)  # left by an earlier evaluation
    _write_csv(output_csv, rows, pixels)
    write_json(output_csv.with_suffix(".json"), summary)
    return summary


def second_reader_csv(metrics_csv: Path) -> Path:
    """Returns the path of the second reader's metrics beside those of an evaluation; the file may not exist."""
    return metrics_csv.with_name(f"{metrics_csv.stem}_{SECOND_READER}.csv")


def _agreement(
    label_map: LabelMap,
    reference: LabelMap,
    labels: Mapping[int, str],
    case: str,
    nsd_tolerance_mm: float,
    undrawn: Sequence[int] = (),
) -> list[Row]:
    """Returns the rows of a case; `undrawn` are the positions in `labels`, from 1, of structures not drawn in it."""
    first, second = label_map.array, reference.array
    for ignored in (reference.ignored, label_map.ignored):
        if ignored is not None:
            first, second = np.where(ignored, 0, first), np.where(ignored, 0, second)
    rows = case_metrics(first, second, reference.spacing, labels, nsd_tolerance_mm)
    for index in undrawn:
        unknown = dict.fromkeys(set(NUMBERS) - {"volume_ml"}, float("nan"))
        rows[index - 1] = {**rows[index - 1], **unknown, "missed": 0}
    return [{"case": case, **row} for row in rows]


def _summary(rows: Sequence[Row], pixels: bool, images: int, seed: int) -> dict[str, Any]:
    summary = summarise(rows, seed)
    if pixels:
        summary = _in_pixels(summary) | {"classes": {name: _in_pixels(of) for name, of in summary["classes"].items()}}
    return summary | {"images": images}


def _write_csv(path: Path, rows: Sequence[Row], pixels: bool) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(_as_csv(rows, pixels), encoding="utf-8", newline="")


def _check_arguments(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing: tuple[float, float, float],
    labels: Mapping[int, str],
    nsd_tolerance_mm: float,
) -> None:
    if prediction.shape != reference.shape or prediction.ndim != 3:
        raise ValueError(
            "Expected prediction and reference as (H, W, D) of the same shape, found "
            f"prediction {prediction.shape} and reference {reference.shape}."
        )
    for name, array in (("prediction", prediction), ("reference", reference)):
        if not np.issubdtype(array.dtype, np.integer):
            raise TypeError(f"Expected integers in the {name}, found {array.dtype}; take the argmax first.")
    if len(spacing) != 3 or not all(step > 0 for step in spacing):
        raise ValueError(f"Expected a spacing of three positive numbers (mm), found {tuple(spacing)}.")
    if not labels or 0 in labels:
        raise ValueError(f"Expected at least one foreground label and not 0 (background), found {dict(labels)}.")
    if not nsd_tolerance_mm >= 0:
        raise ValueError(f"Expected a tolerance of 0 mm or more for NSD, found {nsd_tolerance_mm}.")


def _class_metrics(
    predicted: np.ndarray, expected: np.ndarray, spacing: tuple[float, float, float], tolerance_mm: float
) -> Row:
    """Returns the metrics of one class from two boolean masks (H, W, D)."""
    voxels, reference_voxels = int(predicted.sum()), int(expected.sum())
    common = int(np.logical_and(predicted, expected).sum())
    millilitres = float(np.prod(spacing)) / 1000
    row: Row = {
        "dice": 2 * common / (voxels + reference_voxels) if voxels or reference_voxels else float("nan"),
        "iou": common / (voxels + reference_voxels - common) if voxels or reference_voxels else float("nan"),
        "hd95_mm": float("nan"),
        "assd_mm": float("nan"),
        "nsd": 0.0 if voxels or reference_voxels else float("nan"),
        "volume_ml": voxels * millilitres,
        "reference_volume_ml": reference_voxels * millilitres,
        "missed": int((voxels == 0) != (reference_voxels == 0)),
    }
    if voxels and reference_voxels:
        outward, inward = _surface_distances(predicted, expected, spacing)
        both = np.concatenate([outward, inward])
        row["hd95_mm"] = float(max(np.percentile(outward, 95), np.percentile(inward, 95)))
        row["assd_mm"] = float(both.mean(dtype=np.float64))
        row["nsd"] = float((both <= np.float32(tolerance_mm)).mean())
    return row


def _surface_distances(
    predicted: np.ndarray, expected: np.ndarray, spacing: tuple[float, float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns mm (float32) from each surface voxel of the prediction to the reference's surface, and the reverse."""
    box = ndimage.find_objects((predicted | expected).astype(np.uint8))[0]
    plane = predicted.shape.index(1) if 1 in predicted.shape else None
    steps: Sequence[float] = spacing
    predicted, expected = predicted[box], expected[box]
    if plane is not None:
        predicted, expected = predicted.squeeze(plane), expected.squeeze(plane)
        steps = [step for axis, step in enumerate(spacing) if axis != plane]
    edges, reference_edges = get_mask_edges(predicted, expected, crop=False)
    outward = get_surface_distance(edges, reference_edges, spacing=steps)
    inward = get_surface_distance(reference_edges, edges, spacing=steps)
    return np.asarray(outward), np.asarray(inward)


def _in_pixels(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a summary with the metrics renamed for images without mm."""
    return {IN_PIXELS[key][0] if key in IN_PIXELS else key: value for key, value in summary.items()}


def _as_csv(rows: Sequence[Row], pixels: bool) -> str:
    text = io.StringIO()
    names = pixel_names() if pixels else dict(zip(COLUMNS, COLUMNS, strict=True))
    writer = csv.DictWriter(text, list(names.values()), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cells = {names[key]: row[key] * IN_PIXELS[key][1] if names[key] != key else row[key] for key in COLUMNS}
        rounded = {key: round(value, 6) if isinstance(value, float) else value for key, value in cells.items()}
        writer.writerow({key: "" if value != value else value for key, value in rounded.items()})
    return text.getvalue()

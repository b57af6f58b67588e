"""A case as a row of images: input, reference, prediction, and where the two differ most."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from html import escape

import numpy as np

from tskd_monai.evaluation.label_maps import LabelMap, load_prediction
from tskd_monai.evaluation.report.display import labels_for_display, load_for_display, reference_on_image
from tskd_monai.evaluation.report.evaluated_cases import EvaluatedCase
from tskd_monai.evaluation.report.panels import Overlay, label_colours, legend, panel_row

logger = logging.getLogger(__name__)

MISSED, ADDED, CONFUSED = 1, 2, 3
DIFFERENCES = {MISSED: "missed", ADDED: "added", CONFUSED: "another class"}
DIFFERENCE_COLOURS = {MISSED: "#ff3b30", ADDED: "#00e5ff", CONFUSED: "#ffe600"}  # none is a label's


def case_legend(labels: Mapping[int, str]) -> str:
    """Returns the HTML legend of the label colours and of the difference colours."""
    return legend(labels) + "<p>Differences:</p>" + legend(DIFFERENCES, DIFFERENCE_COLOURS)


def case_panels(case: EvaluatedCase, labels: Mapping[int, str], ignore: int | None = None) -> str:
    """Returns the HTML of a case: its Dice per class, and the slice on which most pixels differ.

    Args:
        case: the case with its files.
        labels: value -> name of the foreground labels.
        ignore: value of voxels to ignore in the label; None: there are none.

    Raises:
        ValueError: if image, label and prediction are not on the same grid.
    """
    scores = ", ".join(f"{row['name']} {_dice(row['dice'])}" for row in case.rows)
    heading = f"<h3>{escape(case.name)} <small>Dice {_dice(case.dice)}</small></h3>"
    text = f'<p class="quiet">{escape(scores)}.'
    try:
        volume = load_for_display(case.image)
    except ValueError:  # such as a second series in the folder: `series_uid` belongs to the inference
        logger.warning("No figure of %s: expected an image that can be read by itself.", case.name)  # names no path
        return f'<div class="patient">{heading}{text} No figure: the image cannot be shown by itself.</p></div>'
    label_map = reference_on_image(case.label, volume, labels, f"label and image of {case.name}", ignore)
    reference = labels_for_display(label_map)
    prediction = labels_for_display(_measured(load_prediction(case.prediction, label_map, labels), label_map, case))
    differences = difference_map(reference, prediction)
    index = worst_slice(differences, reference)
    if volume.view:
        text += f" {volume.view} slice {index + 1} of {reference.shape[2]}; {volume.orientation}."
    colours = label_colours(labels)
    overlays = [
        Overlay("Image", None, colours),
        Overlay("Reference", reference, colours),
        Overlay("Prediction", prediction, colours),
        Overlay("Differences", differences, DIFFERENCE_COLOURS),
    ]
    return f'<div class="patient">{heading}{text}</p>{panel_row(volume, index, overlays, case.name)}</div>'


def _measured(prediction: LabelMap, reference: LabelMap, case: EvaluatedCase) -> LabelMap:
    """Returns the prediction without structures that were not drawn in the case, and without voxels to ignore."""
    left_out = np.isin(prediction.array, [row["label"] for row in case.rows if math.isnan(row["reference_volume_ml"])])
    if reference.ignored is not None:
        left_out |= reference.ignored
    return replace(prediction, array=np.where(left_out, 0, prediction.array))


def difference_map(reference: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Returns 0 where two label maps agree, else whether a structure was missed, added, or confused with another."""
    differ = reference != prediction
    kinds = np.where(prediction == 0, MISSED, np.where(reference == 0, ADDED, CONFUSED))
    return np.where(differ, kinds, 0)


def worst_slice(differences: np.ndarray, reference: np.ndarray) -> int:
    """Returns the index of the slice of (H, W, D) with the most differing pixels; if none differ, the fullest one."""
    counts = (differences > 0).sum(axis=(0, 1))
    return int((counts if counts.any() else (reference > 0).sum(axis=(0, 1))).argmax())


def _dice(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"

"""The result of a pipeline as one PNG, for a slide or a document: image, reference, teacher and student."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from tskd_monai.evaluation.report.overlays import choose_patients, overlay_obstacle, patient_overlays
from tskd_monai.evaluation.report.panels import PANEL_WIDTH, Overlay, cropped_panels, label_colours
from tskd_monai.evaluation.report.pipeline_content import PipelineContent, read_results
from tskd_monai.files.atomic import atomic_path

PANELS = 4  # image, reference and two methods
GAP = 10
FONT, LINE = 24, 32  # pixels; the picture is usually shown at half its width
GROUND, INK, QUIET = "#111111", "#f2f2f2", "#b8b8b8"


def write_result_picture(output: Path, content: PipelineContent) -> bool:
    """Writes the patient with the median Dice of the method of interest as a PNG without names of patients.

    Args:
        output: file to write, for instance `result.png`.
        content: content of the report; its first two methods are shown.

    Returns:
        Whether the picture was written: not if the report shows no patients.
    """
    if overlay_obstacle(content):
        return False
    results = read_results(content)
    entries = {str(entry["case"]): entry for entry in content.cases}
    dice = results[content.comparison[0]].dice
    roles = choose_patients({case: value for case, value in dice.items() if case in entries})
    if not roles:
        return False
    median = next((case for case, role in roles.items() if role == "median"), next(iter(roles)))
    volume, index, overlays = patient_overlays(entries[median], content, results)
    panels = [Image.open(io.BytesIO(png)) for png in cropped_panels(volume, index, overlays)]
    picture = _titled_row(panels[:PANELS], overlays[:PANELS])
    _draw_legend(picture, content.labels)
    with atomic_path(output) as temporary:
        # a palette halves the file, and of the methods this one keeps the labels' colours
        picture.quantize(256, Image.Quantize.MAXCOVERAGE).save(temporary, format="PNG", optimize=True)
    return True


def _titled_row(panels: Sequence[Image.Image], overlays: Sequence[Overlay]) -> Image.Image:
    """Returns panels of one size side by side, each under its title and remark, with a free line at the bottom."""
    width, height = PANEL_WIDTH + GAP, panels[0].height
    picture = Image.new("RGB", (len(panels) * width + GAP, height + 3 * LINE + 2 * GAP), GROUND)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(FONT)
    for number, (panel, overlay) in enumerate(zip(panels, overlays, strict=True)):
        left = GAP + number * width
        draw.text((left, GAP // 2), overlay.title, INK, font)
        draw.text((left, GAP // 2 + LINE), overlay.remark, QUIET, font)
        picture.paste(panel, (left, GAP + 2 * LINE))
    return picture


def _draw_legend(picture: Image.Image, labels: Mapping[int, str]) -> None:
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(FONT)
    left, top = GAP, picture.height - LINE
    for value, colour in label_colours(labels).items():
        draw.rectangle((left, top + 4, left + FONT - 6, top + FONT - 2), colour)
        draw.text((left + FONT, top - 2), labels[value], INK, font)
        left += round(FONT + draw.textlength(labels[value], font) + 3 * GAP)

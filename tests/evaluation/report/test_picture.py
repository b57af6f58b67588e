from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.evaluation.report.pipeline_results import LABELS, study
from tskd_monai.evaluation.report.overlays import choose_patients
from tskd_monai.evaluation.report.panels import PANEL_WIDTH, label_colours
from tskd_monai.evaluation.report.picture import GAP, LINE, write_result_picture
from tskd_monai.evaluation.report.pipeline_content import PipelineContent, read_results


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> PipelineContent:
    return study(tmp_path_factory.mktemp("study"))


def panels(path: Path) -> list[np.ndarray]:
    """Returns the panels of a picture, each (H, W, 3), without titles and legend."""
    pixels = np.asarray(Image.open(path).convert("RGB"))[GAP + 2 * LINE : -(LINE + GAP)]
    return [pixels[:, GAP + index * (PANEL_WIDTH + GAP) :][:, :PANEL_WIDTH] for index in range(4)]


def coloured(panel: np.ndarray, colour: str) -> int:
    """Returns how many pixels are nearly of a colour, since the palette of the picture is limited."""
    wanted = [int(colour[start : start + 2], 16) for start in (1, 3, 5)]
    return int((np.abs(panel.astype(int) - wanted).max(axis=2) < 24).sum())


def test_image_reference_and_two_methods_are_side_by_side(content: PipelineContent, tmp_path: Path) -> None:
    assert write_result_picture(tmp_path / "result.png", content)
    image, reference, student, scratch = panels(tmp_path / "result.png")
    for colour in label_colours(LABELS).values():
        assert coloured(image, colour) == 0
        # outlines of the reference, of a method that misses one row or two, and of one that misses four or five
        assert coloured(reference, colour) > coloured(student, colour) > coloured(scratch, colour) > 0


def test_the_patient_is_the_one_with_the_median_dice(content: PipelineContent, tmp_path: Path) -> None:
    roles = choose_patients(read_results(content)["student"].dice)
    (median,) = (case for case, role in roles.items() if role == "median")
    alone = replace(content, cases=[entry for entry in content.cases if entry["case"] == median])
    write_result_picture(tmp_path / "of_all.png", content)
    write_result_picture(tmp_path / "alone.png", alone)
    assert (tmp_path / "of_all.png").read_bytes() == (tmp_path / "alone.png").read_bytes()


def test_there_is_no_picture_where_the_report_shows_no_patients(content: PipelineContent, tmp_path: Path) -> None:
    assert not write_result_picture(tmp_path / "result.png", replace(content, cases=[content.cases[0]] * 2))
    assert not write_result_picture(tmp_path / "result.png", replace(content, cases=[]))
    assert list(tmp_path.iterdir()) == []

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.test_gates_file import changed, gates_json, write
from tskd_monai.data.gates_file import SHEET_NAME, read_gates
from tskd_monai.evaluation.report.gates_section import counts_sentence, gates_section


def test_section_shows_counts_quality_histograms_and_sheet(tmp_path: Path) -> None:
    html = gates_section(write(tmp_path, gates_json()))
    assert "failed its gates and is left out of distillation. The images are blurred." in html
    assert "Sharpness, synthetic" in html and "Sharpness, training" in html
    assert "Of 4 images sampled, 1 was accepted: 2 of the sampled (50.0 %) were near copies" in html
    assert "and the teacher&#x27;s confidence was too low on 1." in html
    assert "<td>0.2500</td>" in html
    assert "−0.0100 to 0.5000" in html
    assert "3 training images, median 0.1, 0 below the threshold" in html
    assert "4 synthetic images, median 0.06, 2 below the threshold" in html
    assert html.count("Histogram. ") == 3
    assert 'src="data:image/png;base64,' in html
    assert "--width: 320px" in html
    assert "<tiny>" not in html


def test_without_a_teacher_its_confidence_is_stated_as_not_measured(tmp_path: Path) -> None:
    html = gates_section(write(tmp_path, changed("confidence", None)))
    assert "the teacher&#x27;s confidence was not measured" in html
    assert html.count("Histogram. ") == 2


def test_counts_of_nothing_dropped(tmp_path: Path) -> None:
    content = changed("counts", {"sampled": 1, "accepted": 1, "near_copies": 0, "low_confidence": 0})
    sentence = counts_sentence(read_gates(write(tmp_path, content)))
    assert sentence.startswith("Of 1 image sampled, 1 was accepted: 0 of the sampled (0.0 %) were near copies")


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="Expected gates.json in .*run the gates, or leave them out"):
        gates_section(tmp_path)
    with pytest.raises(FileNotFoundError, match="Expected contact_sheet.png in"):
        gates_section(write(tmp_path, gates_json(), sheet=False))
    (tmp_path / SHEET_NAME).write_bytes(b"not a picture")
    with pytest.raises(ValueError, match="Expected a PNG in .*contact_sheet.png, found another format"):
        gates_section(tmp_path)

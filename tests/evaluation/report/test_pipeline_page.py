from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from tests.evaluation.html_page import Page
from tests.evaluation.report.pipeline_results import study
from tskd_monai.evaluation.report.overlays import choose_patients
from tskd_monai.evaluation.report.pipeline_content import Method, PipelineContent
from tskd_monai.evaluation.report.pipeline_page import write_pipeline_page
from tskd_monai.evaluation.report.tables import format_count, format_seconds


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> PipelineContent:
    return study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def html(report: PipelineContent, tmp_path_factory: pytest.TempPathFactory) -> str:
    output = tmp_path_factory.mktemp("page") / "new" / "report.html"
    write_pipeline_page(output, report)
    assert [path.name for path in output.parent.iterdir()] == ["report.html"]
    return output.read_text(encoding="utf-8")


def test_the_page_is_well_formed_and_needs_nothing_else(html: str) -> None:
    page = Page(html)
    assert page.attributes("script") == page.attributes("link") == []
    sources = [a["src"] for a in page.attributes("img")] + [a["srcset"] for a in page.attributes("source")]
    assert sources and all(source.startswith("data:image/png;base64,") for source in sources)
    for source in sources:
        Image.open(io.BytesIO(base64.b64decode(source.split(",", 1)[1]))).verify()
    assert not re.search(r"https?://|url\(", html)


def test_every_image_has_a_text_and_every_heading_cell_a_scope(html: str) -> None:
    page = Page(html)
    assert all(attributes.get("alt") for attributes in page.attributes("img"))
    assert all(attributes.get("scope") in ("row", "col") for attributes in page.attributes("th"))
    assert len(page.attributes("table")) == len(page.attributes("caption"))


def test_what_users_write_is_shown_and_not_obeyed(html: str) -> None:
    assert "<student>" not in html and "Distilled &lt;student&gt;" in html
    text = Page(html).text
    for words in ("A <title>", "spleen <&>", "a < b", "Made in a test & nowhere else.", "Not a medical device"):
        assert words in text


def test_the_numbers_are_those_of_the_metrics(html: str, report: PipelineContent) -> None:
    summary = json.loads(report.methods[0].metrics_csv.with_suffix(".json").read_text())
    text = " ".join(Page(html).text.split())
    assert f"{summary['dice']['mean']:.3f} ± {summary['dice']['sd']:.3f}" in text
    assert f"{summary['classes']['liver']['dice']['mean']:.3f}" in text
    assert "212 k" in text and "18.7 ms" in text and "1 min 15 s" in text
    assert "n = 4 patients: the interval is not informative" in text


def test_the_overlays_show_each_method_on_three_patients(html: str) -> None:
    page = Page(html)
    alts = [attributes["alt"] for attributes in page.attributes("img") if "drawn over" in attributes["alt"]]
    assert len(alts) == 9  # three patients, reference and two methods
    assert "Axial slice 2 of 5; anterior up, patient's right on the left" in page.text


@pytest.mark.parametrize(("losses", "word"), [((1, 4), " above "), ((4, 1), " below "), ((2, 2), " the same to ")])
def test_the_headline_states_the_direction(losses: tuple[int, int], word: str, tmp_path: Path) -> None:
    whole = study(tmp_path, losses=losses)
    methods = [replace(method, history=None) for method in whole.methods]
    bare = replace(whole, methods=methods, cases=[], synthetic_images=[], real_images=[])
    write_pipeline_page(tmp_path / "report.html", bare)
    headline = re.search(r'<p class="headline">(.*?)</p>', (tmp_path / "report.html").read_text(), re.S)
    assert headline and word in headline[1]


def test_there_may_be_no_baseline_or_several(report: PipelineContent, tmp_path: Path) -> None:
    student, scratch = report.methods
    third = replace(scratch, key="self-training", title="Self-training")
    several = replace(report, methods=[student, scratch, third], comparison=("student", "scratch", "self-training"))
    write_pipeline_page(tmp_path / "several.html", several)
    page = Page((tmp_path / "several.html").read_text())
    assert page.text.count("paired by patient") == 2
    assert "Difference to From scratch" in page.text and "Difference to Self-training" in page.text

    write_pipeline_page(tmp_path / "none.html", replace(report, methods=[student], comparison=("student",)))
    page = Page((tmp_path / "none.html").read_text())
    assert "paired by patient" not in page.text and "Difference to" not in page.text
    assert re.search(r"reaches a mean Dice of 0\.\d{3} on 4 patients\.", page.text)


def test_2d_images_are_measured_in_pixels(tmp_path: Path) -> None:
    flat = study(tmp_path / "study", suffix=".png")
    methods = [replace(method, history=None) for method in flat.methods]
    write_pipeline_page(tmp_path / "report.html", replace(flat, methods=methods, synthetic_images=[]))
    text = (tmp_path / "report.html").read_text()
    assert "HD95 (pixels)" in text and "drawn over" in text and "Axial" not in text


def test_what_is_not_known_is_left_out(report: PipelineContent, tmp_path: Path) -> None:
    methods = [Method(method.key, method.title, method.metrics_csv) for method in report.methods]
    write_pipeline_page(
        tmp_path / "r.html", replace(report, methods=methods, synthetic_images=[], settings={}, notes=[])
    )
    page = Page((tmp_path / "r.html").read_text())
    assert "Training curves" not in page.text and "Synthetic" not in page.text and "CPU latency" not in page.text


def test_several_images_of_a_patient_are_not_mixed_up(report: PipelineContent, tmp_path: Path) -> None:
    methods = [replace(method, history=None) for method in report.methods]
    twice = replace(report, methods=methods, cases=[*report.cases, report.cases[0]], synthetic_images=[])
    write_pipeline_page(tmp_path / "r.html", twice)
    assert "a patient has several images" in (tmp_path / "r.html").read_text()


def test_patients_are_the_worst_the_median_and_the_best() -> None:
    assert choose_patients({"a": 0.9, "b": 0.1, "c": 0.5, "d": float("nan")}) == {
        "b": "lowest",
        "c": "median",
        "a": "highest",
    }
    assert choose_patients({"a": 0.9, "b": 0.1}) == {"b": "lowest", "a": "highest"}
    assert choose_patients({"a": 0.9}) == {"a": "the only patient"}


def test_numbers_are_written_for_people() -> None:
    assert [format_count(n) for n in (None, 12, 212_345, 999_700, 5_717_416)] == [
        "–",
        "12",
        "212 k",
        "1.00 M",
        "5.72 M",
    ]
    assert [format_seconds(s) for s in (None, 42, 200, 7500)] == ["–", "42 s", "3 min 20 s", "2 h 5 min"]


def test_methods_on_other_cases_are_refused(report: PipelineContent, tmp_path: Path) -> None:
    lines = report.methods[1].metrics_csv.read_text().splitlines(keepends=True)
    (tmp_path / "metrics.csv").write_text("".join(lines[:3]))
    other = replace(report.methods[1], metrics_csv=tmp_path / "metrics.csv")
    with pytest.raises(ValueError, match=r"cases \['a', 'b', 'c', 'd'\].*found \['a'\]"):
        write_pipeline_page(tmp_path / "r.html", replace(report, methods=[report.methods[0], other]))
    assert not (tmp_path / "r.html").exists()


def test_a_comparison_of_unknown_methods_is_refused(report: PipelineContent) -> None:
    for wrong in (("teacher", "scratch"), (), ("student", "student")):
        with pytest.raises(ValueError, match=r"different ones of the methods \['student', 'scratch'\], found"):
            replace(report, comparison=wrong)
    with pytest.raises(ValueError, match="different keys"):
        replace(report, methods=[report.methods[0]] * 2)


def test_a_history_with_a_broken_line_is_refused(report: PipelineContent, tmp_path: Path) -> None:
    (tmp_path / "history.jsonl").write_text('{"train_loss": 1}\n{"tra\n{"train_loss": 1}\n')
    broken = replace(report.methods[0], history=tmp_path / "history.jsonl")
    with pytest.raises(ValueError, match=r"one JSON object per line in .*history.jsonl.*line 2"):
        write_pipeline_page(tmp_path / "r.html", replace(report, methods=[broken, report.methods[1]]))

"""The report of a dataset: which cases are shown, and what their thumbnails look like."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.evaluation.html_page import Page
from tskd_monai.data.datalist import load_datalist
from tskd_monai.data.planning.fingerprint import Fingerprint, ReadCase
from tskd_monai.data.planning.survey import Refusal, Survey, survey_dataset
from tskd_monai.datasets.phantom.study import write_study
from tskd_monai.evaluation.report.dataset_page import headline, write_dataset_page
from tskd_monai.evaluation.report.dataset_sheet import SHOWN, shown_cases, thumbnail
from tskd_monai.evaluation.report.dataset_tables import _number
from tskd_monai.evaluation.report.panels import LABEL_COLOURS, THUMBNAIL

LABELS = {3: "organ", 7: "vessel"}


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Survey:
    datalist = write_study(
        tmp_path_factory.mktemp("phantom"), sections={"training": 2}, shape=(32, 32, 6), spacing=(10.8, 10.8, 27.0)
    )
    return survey_dataset(load_datalist(datalist))


def many(survey: Survey, number: int) -> Survey:
    """Return a survey with many cases like the first."""
    return replace(survey, cases=[replace(survey.cases[0], name=f"case{index}") for index in range(number)])


def read_case(image: np.ndarray, classes: np.ndarray | None, affine: np.ndarray | None) -> ReadCase:
    found = Fingerprint("training", "a", "a", image.shape[:3], (1, 1, 1), 1, "", (0, 1), "")
    return ReadCase(found, "", image, classes, affine)


def picture(case: ReadCase) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(thumbnail(case, LABELS)))).astype(int)


def test_all_cases_are_shown_up_to_the_limit_and_beyond_it_evenly(survey: Survey) -> None:
    assert len(shown_cases(many(survey, SHOWN))) == SHOWN
    names = [case.name for case in shown_cases(many(survey, 4 * SHOWN))]
    assert names == [f"case{index}" for index in range(2, 4 * SHOWN, 4)]


def test_what_is_refused_unusual_or_doubled_is_always_shown(survey: Survey) -> None:
    odd = replace(survey.unlike, texts={"case1": ["no liver"]})
    found = replace(
        many(survey, 4 * SHOWN),
        unlike=odd,
        refused=[Refusal("training", "case7", "why")],
        same_images=[["case12", "case159"]],
    )
    names = [case.name for case in shown_cases(found)]
    assert {"case1", "case7", "case12", "case159"} <= set(names) and len(names) == SHOWN
    assert names == sorted(names, key=lambda name: int(name[4:]))


@pytest.mark.parametrize(
    ("refused", "sentence"),
    [
        ([], "Planning and training would take all 2 images; none stands out."),
        ([Refusal("training", "a", "")], "Planning and training would refuse 1 of 2 images; none stands out."),
        (
            [Refusal("", "", "")],
            "Every image can be read, but planning and training would refuse the dataset as a whole; none stands out.",
        ),
        (
            [Refusal("training", "a", ""), Refusal("", "", "")],
            "Planning and training would refuse 1 of 2 images and the dataset as a whole; none stands out.",
        ),
    ],
)
def test_the_headline_counts_what_is_refused(survey: Survey, refused: list[Refusal], sentence: str) -> None:
    assert headline(replace(survey, refused=refused)) == sentence


def test_texts_of_others_cannot_write_html(survey: Survey, tmp_path: Path) -> None:
    found = replace(
        survey,
        name="<script>",
        labels={1: "<b>liver</b>", **{value: name for value, name in survey.labels.items() if value > 1}},
        refused=[Refusal("training", "<i>", "expected `a<b`")],
    )
    pictures = {case.name: b"" for case in survey.cases}
    write_dataset_page(tmp_path / "page.html", found, pictures, warnings=["<u>"])
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert not {"script", "i", "u"} & {tag for tag, _ in page.tags}
    for text in ("<script>", "<b>liver</b>", "training, <i>: expected a<b", "Warning: <u>"):
        assert text in page.text


def test_a_thumbnail_shows_the_slice_with_most_labels_outlined() -> None:
    image, classes = np.zeros((40, 60, 5), np.float32), np.zeros((40, 60, 5), np.uint8)
    image[..., 3] = np.linspace(0, 1000, 60)
    classes[10:30, 20:40, 3] = 2
    shown = picture(read_case(image, classes, np.diag([1, 1, 4, 1])))
    assert shown.shape[:2] == (THUMBNAIL, 160)  # 40 x 60 mm: columns run to the left, rows to the back
    colour = [int(LABEL_COLOURS[1][start : start + 2], 16) for start in (1, 3, 5)]
    outline = np.abs(shown - colour).max(axis=-1) < 40
    assert outline.any(axis=1).sum() == pytest.approx(20 * THUMBNAIL / 60, abs=4)
    assert not outline[100:140, 60:100].any()  # inside, the image is left as it is


def test_an_8_bit_image_keeps_its_contrast() -> None:
    image = np.full((20, 20, 1, 3), 100, np.float32)
    image[:, 10:] = 140
    shown = picture(read_case(image, None, None))
    assert shown.shape == (THUMBNAIL, THUMBNAIL, 3)
    assert shown.min() == pytest.approx(100, abs=8) and shown.max() == pytest.approx(140, abs=8)


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.9, "1.90"), (81.44, "81.4"), (140.2, "140"), (12, "12"), (307799.4, "307,799"), (0.5, "0.500")],
)
def test_numbers_of_a_column_have_three_digits(value: float, text: str) -> None:
    assert _number(value) == text

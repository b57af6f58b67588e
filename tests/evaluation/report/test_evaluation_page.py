from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from tests.evaluation.html_page import Page
from tskd_monai.data.datalist import load_section
from tskd_monai.data.task import Task
from tskd_monai.datasets.phantom.dicom import write_dicom_series
from tskd_monai.evaluation.report import evaluation_page
from tskd_monai.evaluation.report.case_panels import difference_map, worst_slice
from tskd_monai.evaluation.report.evaluated_cases import evaluated_cases
from tskd_monai.evaluation.report.evaluation_page import write_evaluation_report
from tskd_monai.evaluation.report.unlike_images import unlike_images
from tskd_monai.evaluation.scoring import score_segmentations
from tskd_monai.evaluation.summary import read_metrics

# Missing rows of the liver: the second image of patient 7 is the worst, 9 is perfect, 8 lacks its spleen.
LOST = {"7_left": 1, "7_right": 6, "8": 2, "9": 0}
IMAGES = {"7_left": "7", "7_right": "7", "8": "8", "9": "9"}


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        Image.fromarray(array[:, :, 2]).save(path)
    else:
        nib.save(nib.Nifti1Image(array, np.diag([2.0, 2.0, 5.0, 1.0])), path)


def evaluate(folder: Path, task: Task) -> str:
    """Writes and scores a section of three patients, one of them with two images; returns its report."""
    ending = ".nii.gz" if task.axcodes else ".png"
    label = np.zeros((24, 20, 4), np.uint8)
    label[2:12, 2:12, 1:3], label[14:20, 12:18, 1:3] = 1, 4
    entries = []
    for name, case in IMAGES.items():
        stem = name.removeprefix("7_")
        save(folder / f"{stem}{ending}", 40 * label)
        save(folder / "labels" / f"{name}{ending}", label)
        prediction = label.copy()
        prediction[2 : 2 + LOST[name], :, 2] = 0
        prediction[:] = np.where((prediction == 4) & (name == "8"), 0, prediction)
        save(folder / "out" / f"{name}_seg{ending}", prediction)
        entries.append({"case": case, "image": f"{stem}{ending}", "label": f"labels/{name}{ending}"})
    (folder / "datalist.json").write_text(json.dumps({"training": [], "test": entries}))
    score_segmentations(task, folder / "datalist.json", "test", folder / "out")
    path = write_evaluation_report(task, folder / "datalist.json", "test", folder / "out")
    assert path == folder / "out" / "report.html"
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def task(make_task: Callable[..., Task]) -> Task:
    return make_task()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluation")


@pytest.fixture(scope="module")
def html(folder: Path, task: Task) -> str:
    return evaluate(folder, task)


def test_the_page_is_well_formed_and_needs_nothing_else(html: str, folder: Path) -> None:
    page = Page(html)
    assert page.attributes("script") == page.attributes("link") == []
    sources = [a["src"] for a in page.attributes("img")] + [a["srcset"] for a in page.attributes("source")]
    assert sources and all(source.startswith("data:image/png;base64,") for source in sources)
    assert all(attributes.get("alt") for attributes in page.attributes("img"))
    assert not re.search(r"https?://|url\(|\$[a-z]", html)
    assert str(folder) not in html


def test_the_worst_case_comes_first(html: str) -> None:
    assert re.findall(r"<h3>(.*?) <small>", html) == ["8", "7_right", "7_left", "9"]
    text = " ".join(Page(html).text.split())
    assert "The worst case is 8 with" in text and "its spleen has 0.000" in text
    assert text.count("Differences") == 5  # the legend, and an image of each case


def test_classes_and_volumes_are_those_of_the_metrics(html: str, folder: Path) -> None:
    summary = json.loads((folder / "out" / "metrics.json").read_text())
    text = " ".join(Page(html).text.split())
    liver = summary["classes"]["liver"]["dice"]
    assert f"{liver['mean']:.3f} ± {liver['sd']:.3f}" in text
    assert f"Mean Dice {summary['dice']['mean']:.3f} on 3 patients." in text
    reference = 10 * 10 * 2 * 20 / 1000
    assert f"{reference - 60 * 20 / 1000:.1f} / {reference:.1f}" in text  # six rows of ten voxels are missing
    assert f"Mean difference{-sum(LOST.values()) * 10 * 20 / 1000 / 4:+.1f}" in re.sub(r"\s*\n\s*", "", Page(html).text)


def test_a_second_reader_has_a_table(tmp_path: Path, task: Task) -> None:
    assert "second reader" not in evaluate(tmp_path, task)
    datalist = json.loads((tmp_path / "datalist.json").read_text())
    second = np.asarray(nib.load(tmp_path / "labels/9.nii.gz").dataobj).copy()
    second[2, :, :] = 0
    save(tmp_path / "second.nii.gz", second)
    datalist["test"][3]["second_reader"] = "second.nii.gz"
    (tmp_path / "datalist.json").write_text(json.dumps(datalist))
    summary = score_segmentations(task, tmp_path / "datalist.json", "test", tmp_path / "out")
    path = write_evaluation_report(task, tmp_path / "datalist.json", "test", tmp_path / "out")
    text = " ".join(Page(path.read_text(encoding="utf-8")).text.split())
    table = text.split("A second reader against the reference")[-1]
    liver = summary["second_reader"]["classes"]["liver"]["dice"]["mean"]
    assert 0.9 < liver < 1 and f"liver {liver:.3f}" in table


def test_an_interval_wants_enough_patients(
    folder: Path, task: Task, html: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation_page, "FEW_PATIENTS", 3)
    path = write_evaluation_report(task, folder / "datalist.json", "test", folder / "out")
    text = path.read_text(encoding="utf-8")
    path.write_text(html, encoding="utf-8")
    low, high = json.loads((folder / "out" / "metrics.json").read_text())["dice"]["interval_95"]
    assert f"(95 % interval {low:.3f} to {high:.3f}) on 3 patients" in text


def test_the_number_of_cases_with_images_is_limited(
    folder: Path, task: Task, html: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation_page, "SHOWN", 1)
    path = write_evaluation_report(task, folder / "datalist.json", "test", folder / "out")
    text = path.read_text(encoding="utf-8")
    path.write_text(html, encoding="utf-8")
    assert "The 1 worst of 4 cases" in text and re.findall(r"<h3>(.*?) <small>", text) == ["8"]


def test_2d_images_have_no_volumes(tmp_path: Path, make_task: Callable[..., Task]) -> None:
    text = evaluate(tmp_path, make_task(axcodes=None))
    assert "HD95 (pixels)" in text and "Volume in mL" not in text and " slice " not in text.split("Worst first")[1]


def test_images_unlike_the_training_images_are_named_first(tmp_path: Path, task: Task) -> None:
    assert "unlike the training images" not in evaluate(tmp_path, task)
    studies = [
        {"name": "8", "unlike_training": "field of view 40 mm, in training <320 mm"},
        {"name": "9"},
        {"name": "of another section", "unlike_training": "field of view 1 mm"},
    ]
    (tmp_path / "out" / "summary.json").write_text(json.dumps({"studies": studies}))
    path = write_evaluation_report(task, tmp_path / "datalist.json", "test", tmp_path / "out")
    text = " ".join(Page(path.read_text(encoding="utf-8")).text.split())
    assert "1 of 4 images are unlike the training images." in text.split("By class")[0]
    assert "8: field of view 40 mm, in training <320 mm" in text and "another section" not in text


@pytest.mark.parametrize(
    ("content", "message"),
    [({}, "Expected studies in .*summary"), ({"studies": [3]}, "Expected an object in .*summary.json, studies"),
     ({"studies": [{"name": "8", "unlike_training": 3}]}, "Expected unlike_training in .* to be str")],
)  # fmt: skip
def test_a_summary_that_no_run_writes_is_refused(tmp_path: Path, content: dict, message: str) -> None:
    (tmp_path / "summary.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        unlike_images(tmp_path)
    assert unlike_images(tmp_path / "none") == {}


def test_a_dicom_series_is_shown_and_two_in_a_folder_are_listed(tmp_path: Path, task: Task) -> None:
    evaluate(tmp_path, task)
    scan = nib.load(tmp_path / "8.nii.gz")
    write_dicom_series(tmp_path / "series", np.asarray(scan.dataobj, np.uint16), scan.affine, seed=0)
    datalist = json.loads((tmp_path / "datalist.json").read_text())
    datalist["test"][2]["image"] = "series"
    (tmp_path / "datalist.json").write_text(json.dumps(datalist))

    def report() -> str:
        path = write_evaluation_report(task, tmp_path / "datalist.json", "test", tmp_path / "out")
        return path.read_text(encoding="utf-8")

    shown = report()  # DICOM counts columns first: the label is brought into the order of the series
    assert "No figure" not in shown and shown.count("Axial slice") == 4
    write_dicom_series(tmp_path / "series/more", np.ones((24, 20, 4), np.uint16), scan.affine, seed=1)
    listed = report()
    assert listed.count("No figure: the image cannot be shown by itself") == 1 and listed.count("Axial slice") == 3


def test_metrics_of_another_section_are_refused(folder: Path, task: Task, html: str) -> None:
    entries = load_section(folder / "datalist.json", "test")
    rows = read_metrics(folder / "out" / "metrics.csv")
    with pytest.raises(ValueError, match=r"metrics of the section's 3 images with 2 classes each.*found 8 rows"):
        evaluated_cases(task, entries[1:], rows, folder / "out")
    with pytest.raises(ValueError, match="evaluate the section again"):
        evaluated_cases(task, entries[::-1], rows, folder / "out")


def test_differences_are_missed_added_or_taken_for_another_class() -> None:
    reference, prediction = np.array([[1, 1, 0, 1, 0]]), np.array([[1, 0, 2, 2, 0]])
    assert difference_map(reference, prediction).tolist() == [[0, 1, 2, 3, 0]]


def test_the_slice_shown_is_the_one_with_most_differences() -> None:
    differences, reference = np.zeros((4, 4, 3), dtype=int), np.zeros((4, 4, 3), dtype=int)
    reference[:2, :, 1] = 1
    assert worst_slice(differences, reference) == 1
    differences[0, 0, 2] = 3
    assert worst_slice(differences, reference) == 2

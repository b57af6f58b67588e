from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from tskd_monai.data.nrrd import write_nrrd
from tskd_monai.data.task import Label, Task
from tskd_monai.evaluation.scoring import score_segmentations
from tskd_monai.evaluation.summary import read_metrics

ENTRIES = [("7", "left"), ("7", "right"), ("8", "x")]


def labels() -> np.ndarray:
    array = np.zeros((10, 12, 4), np.uint8)
    array[2:6, 2:6, 1:3] = 1
    array[2:6, 8:11, 1:3] = 4
    return array


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        Image.fromarray(array).save(path)
    elif path.suffix == ".nrrd":
        write_nrrd(path, array, np.diag([2.0, 2.0, 5.0, 1.0]))
    else:
        nib.save(nib.Nifti1Image(array, np.diag([2.0, 2.0, 5.0, 1.0])), path)


def write_study(folder: Path, array: np.ndarray, ending: str = ".nii.gz") -> Path:
    """Write a datalist of two patients, one of them with two images."""
    items = []
    for case, name in ENTRIES:
        save(folder / f"{name}{ending}", array)
        items.append({"case": case, "image": f"{name}{ending}", "label": f"{name}{ending}"})
    (folder / "datalist.json").write_text(json.dumps({"training": [], "test": items}))
    return folder / "datalist.json"


@pytest.mark.parametrize(("output_format", "ending"), [("nrrd", ".nii.gz"), ("same", ".nrrd")])
def test_segmentations_in_nrrd_are_scored(
    tmp_path: Path, make_task: Callable[..., Task], output_format: str, ending: str
) -> None:
    datalist = write_study(tmp_path, labels(), ending)
    for name in ("7_left", "7_right", "8"):
        save(tmp_path / "out" / f"{name}_seg.nrrd", labels())
    score_segmentations(make_task(), datalist, "test", tmp_path / "out", output_format=output_format)
    assert {row["dice"] for row in read_metrics(tmp_path / "out" / "metrics.csv")} == {1.0}


def test_perfect_segmentations_score_one(tmp_path: Path, make_task: Callable[..., Task]) -> None:
    datalist = write_study(tmp_path, labels())
    for name in ("7_left", "7_right", "8"):
        save(tmp_path / "out" / f"{name}_seg.nii.gz", labels())
    summary = score_segmentations(make_task(), datalist, "test", tmp_path / "out")
    assert summary == json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert summary["images"] == 3
    rows = list(csv.DictReader((tmp_path / "out" / "metrics.csv").open()))
    assert [(row["case"], row["name"]) for row in rows] == [
        (case, name) for case in ("7", "7", "8") for name in ("liver", "spleen")
    ]
    assert {float(row["dice"]) for row in rows} == {1.0}
    assert {float(row["hd95_mm"]) for row in rows} == {0.0}
    assert float(rows[0]["volume_ml"]) == pytest.approx(4 * 4 * 2 * 20 / 1000)


def test_each_image_is_held_against_its_own_label(tmp_path: Path, make_task: Callable[..., Task]) -> None:
    datalist = write_study(tmp_path, labels())
    empty = np.zeros_like(labels())
    for name, array in (("7_left", labels()), ("7_right", empty), ("8", labels())):
        save(tmp_path / "out" / f"{name}_seg.nii.gz", array)
    score_segmentations(make_task(), datalist, "test", tmp_path / "out")
    rows = list(csv.DictReader((tmp_path / "out" / "metrics.csv").open()))
    assert [float(row["dice"]) for row in rows] == [1, 1, 0, 0, 1, 1]


def test_images_are_scored_as_png(tmp_path: Path, make_task: Callable[..., Task]) -> None:
    mask = (labels()[:, :, 1] > 0).astype(np.uint8) * 255
    datalist = write_study(tmp_path, mask, ".png")
    for name in ("7_left", "7_right", "8"):
        save(tmp_path / "out" / f"{name}_seg.png", mask)
    task = make_task(axcodes=None, labels=(Label(0, "background"), Label(255, "vessel")))
    score_segmentations(task, datalist, "test", tmp_path / "out")
    rows = list(csv.DictReader((tmp_path / "out" / "metrics.csv").open()))
    assert [(row["name"], float(row["dice"])) for row in rows] == [("vessel", 1.0)] * 3


def test_files_state_pixels_where_there_are_no_mm(tmp_path: Path, make_task: Callable[..., Task]) -> None:
    mask = (labels()[:, :, 1] > 0).astype(np.uint8) * 255
    datalist = write_study(tmp_path, mask, ".png")
    for name in ("7_left", "7_right", "8"):
        save(tmp_path / "out" / f"{name}_seg.png", np.roll(mask, 1, axis=0))
    task = make_task(axcodes=None, labels=(Label(0, "background"), Label(255, "vessel")))
    summary = score_segmentations(task, datalist, "test", tmp_path / "out")
    table = (tmp_path / "out" / "metrics.csv").read_text()
    assert not re.search("mm|ml", table + (tmp_path / "out" / "metrics.json").read_text())
    first = next(csv.DictReader(table.splitlines()))
    assert float(first["area_px"]) == float(first["reference_area_px"]) == (mask > 0).sum()
    assert float(first["hd95_px"]) == summary["hd95_px"]["mean"] == summary["classes"]["vessel"]["hd95_px"]["mean"] == 1
    assert summary["nsd_tolerance_px"] == 2
    row = read_metrics(tmp_path / "out" / "metrics.csv")[0]  # as in memory: a pixel counts as a cubic mm
    assert (row["hd95_mm"], row["volume_ml"]) == (1, pytest.approx((mask > 0).sum() / 1000))


def test_missing_segmentation_is_named_and_nothing_written(tmp_path: Path, make_task: Callable[..., Task]) -> None:
    datalist = write_study(tmp_path, labels())
    save(tmp_path / "out" / "7_left_seg.nii.gz", labels())
    with pytest.raises(FileNotFoundError, match=r"Expected a file with a label map at .*7_right_seg\.nii\.gz, found"):
        score_segmentations(make_task(), datalist, "test", tmp_path / "out")
    assert not (tmp_path / "out" / "metrics.csv").exists()


def test_a_second_reader_is_scored_like_the_prediction(tmp_path: Path, make_task: Callable[..., Task]) -> None:
    datalist = write_study(tmp_path, labels())
    second = labels()
    second[5, 2:6, 1:3] = 0  # a quarter of the liver
    save(tmp_path / "second/left.nii.gz", second)
    content = json.loads(datalist.read_text())
    content["test"][0]["second_reader"] = "second/left.nii.gz"
    datalist.write_text(json.dumps(content))
    for name in ("7_left", "7_right", "8"):
        save(tmp_path / "out" / f"{name}_seg.nii.gz", second if name == "7_left" else labels())
    summary = score_segmentations(make_task(), datalist, "test", tmp_path / "out")
    readers = summary["second_reader"]
    assert (readers["cases"], readers["images"], summary["images"]) == (1, 1, 3)
    assert readers["classes"]["liver"]["dice"]["mean"] == pytest.approx(2 * 24 / (24 + 32))
    assert readers["classes"]["spleen"]["dice"]["mean"] == 1
    rows = read_metrics(tmp_path / "out/metrics.csv")
    assert read_metrics(tmp_path / "out/metrics_second_reader.csv") == rows[:2]
    assert json.loads((tmp_path / "out/metrics.json").read_text()) == summary
    del content["test"][0]["second_reader"]
    datalist.write_text(json.dumps(content))
    assert "second_reader" not in score_segmentations(make_task(), datalist, "test", tmp_path / "out")
    assert not (tmp_path / "out/metrics_second_reader.csv").exists()


def test_a_second_reader_off_the_grid_is_refused(tmp_path: Path, make_task: Callable[..., Task]) -> None:
    datalist = write_study(tmp_path, labels())
    nib.save(nib.Nifti1Image(labels(), np.diag([2.0, 2.0, 4.0, 1.0])), tmp_path / "second.nii.gz")
    content = json.loads(datalist.read_text())
    content["test"][0]["second_reader"] = "second.nii.gz"
    datalist.write_text(json.dumps(content))
    for name in ("7_left", "7_right", "8"):
        save(tmp_path / "out" / f"{name}_seg.nii.gz", labels())
    with pytest.raises(ValueError, match=r"second reader's label .*second\.nii\.gz beside .*moves a corner by 3 mm"):
        score_segmentations(make_task(), datalist, "test", tmp_path / "out")

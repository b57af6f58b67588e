from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tskd_monai.datasets.kidney_us import find, read_annotations

SHAPE = (40, 52)
COLUMNS = ["filename", "file_size", "file_attributes", "region_count", "region_id"]
SHAPES = {
    "Capsule": (4, 44, 3, 33),
    "Central Echo Complex": (8, 30, 6, 24),
    "Medulla": (20, 36, 10, 28),
    "Cortex": (30, 42, 20, 31),
}
"""First and last column, first and last row of a box."""

NAMES = ["1_IM-0001-0059_anon.png", "2_IM-0383-0001_anon.png", "2_IM-0383-0002_anon.png", "3_IM-0007-0003_anon.png"]
REPEAT = "400_IM-0001-0059_anon.png"


def _row(name: str, shape: dict[str, Any], attributes: dict[str, str], number: int = 0) -> list[str]:
    file = {"Quality": "Fair", "View": "Transverse", "Comments": "n/a"}
    return [name, "140645", json.dumps(file), "4", str(number), json.dumps(shape), json.dumps(attributes)]


def _polygon(box: tuple[int, int, int, int], shift: int) -> dict[str, Any]:
    left, right, top, bottom = (value + shift for value in box)
    return {"name": "polygon", "all_points_x": [left, right, right, left], "all_points_y": [top, top, bottom, bottom]}


@pytest.fixture
def source(tmp_path: Path, save: Callable[..., Any], noise: Callable[..., np.ndarray]) -> Path:
    """Four images and a repeat; the second annotator is a pixel off; the last image has no annotation."""
    for reader in (1, 2):
        rows = []
        for name in [*NAMES, REPEAT]:
            if name == NAMES[3]:
                rows.append(_row(name, {}, {}))
                continue
            boxes = SHAPES if name != NAMES[2] else {"Capsule": SHAPES["Capsule"]}
            for number, (structure, box) in enumerate(boxes.items()):
                rows.append(_row(name, _polygon(box, reader - 1), {"Anatomy": structure}, number))
        rows.append(_row(NAMES[0], {"name": "rect", "x": 3, "y": 4, "width": 2, "height": 2}, {}))
        path = tmp_path / f"labels/reviewed_labels_{reader}.csv"
        path.parent.mkdir(exist_ok=True)
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([[*COLUMNS, "region_shape_attributes", "region_attributes"], *rows])
    for seed, name in enumerate([*NAMES, REPEAT]):
        grey = noise(seed % 4, *SHAPE)
        save(tmp_path / "images" / name, np.stack([grey] * 3, axis=-1) if seed == 1 else grey)
    return tmp_path


def _box(box: tuple[int, int, int, int], shift: int = 0) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    left, right, top, bottom = (value + shift for value in box)
    mask[top : bottom + 1, left : right + 1] = True
    return mask


def _by_name(datalist: dict[str, Any], key: str) -> dict[str, np.ndarray]:
    entries = datalist["training"] + datalist.get("validation", []) + datalist.get("test", [])
    return {Path(entry["image"]).name: np.asarray(Image.open(entry[key])) for entry in entries if key in entry}


def test_capsules_of_both_annotators(source: Path, prepare: Callable[..., dict[str, Any]]) -> None:
    datalist = prepare(find(source), split=(1, 0, 1))
    first, second = _by_name(datalist, "label"), _by_name(datalist, "second_reader")
    assert sorted(first) == sorted(second) == NAMES[:3]  # without the repeat
    assert [entry["case"] for entry in datalist["unlabeled"]] == ["3"]  # no outline does not mean background
    for name in NAMES[:3]:
        np.testing.assert_array_equal(first[name], _box(SHAPES["Capsule"]))
        np.testing.assert_array_equal(second[name], _box(SHAPES["Capsule"], 1))
    sections = [{entry["case"] for entry in datalist[section]} for section in ("training", "test")]
    assert sorted(sections, key=str) == [{"1"}, {"2"}]  # the two images of patient 2 are in one section


def test_regions_are_drawn_in_the_order_of_their_values(source: Path, prepare: Callable[..., dict[str, Any]]) -> None:
    datalist = prepare(find(source, "regions", annotator=2), split=(1, 0, 1))
    expected = np.zeros(SHAPE, np.uint8)
    for value, name in enumerate(["Central Echo Complex", "Medulla", "Cortex"], start=1):
        expected[_box(SHAPES[name], 1)] = value
    labels = _by_name(datalist, "label")
    assert sorted(labels) == NAMES[:2]  # the third has only a capsule
    for mask in labels.values():
        np.testing.assert_array_equal(mask, expected)
    assert datalist["left_out"][0]["reason"] == "no label, and patient 2 has labelled images"


def test_masks_go_before_polygons(
    source: Path, prepare: Callable[..., dict[str, Any]], save: Callable[..., Any]
) -> None:
    mask = _box((10, 20, 10, 20)).astype(np.uint8)
    for name in NAMES[:3]:
        save(source / f"labels/reviewed_masks_1/capsule/{name}", mask)
    datalist = prepare(find(source), split=(1, 0, 1))
    assert all((found == mask).all() for found in _by_name(datalist, "label").values())
    assert all((found != mask).any() for found in _by_name(datalist, "second_reader").values())


def test_a_missing_image_or_csv_is_named(source: Path) -> None:
    (source / "images" / NAMES[1]).unlink()
    with pytest.raises(FileNotFoundError, match=rf"KidneyUS: expected the file {NAMES[1]} at"):
        find(source)
    shutil.move(source / "labels/reviewed_labels_2.csv", source / "labels/other.csv")
    with pytest.raises(FileNotFoundError, match=r"expected the file reviewed_labels_2\.csv at"):
        find(source)
    with pytest.raises(ValueError, match="Expected --annotator 1 or 2, found 3"):
        find(source, annotator=3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "filename,region_attributes\n",
            r"expected the columns \['filename', .*found \['filename', 'region_attributes",
        ),
        ("filename,region_shape_attributes,region_attributes\na.png,{,{}\n", "line 2: expected JSON"),
    ],
)
def test_a_csv_of_another_kind_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_annotations(tmp_path / "a.csv")

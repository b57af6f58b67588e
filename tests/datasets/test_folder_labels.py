"""Values and names of a folder's labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tskd_monai.datasets.folder_labels import distinct_values, label_values, named_labels


def masks(folder: Path, *values: int, suffix: str = ".png") -> list[Path]:
    """Write a mask of the background and one value for each; return their paths."""
    paths = []
    for index, value in enumerate(values):
        pixels = np.zeros((20, 20), np.uint8)
        pixels[3:10, 5:14] = value
        paths.append(folder / f"m{index}{suffix}")
        Image.fromarray(pixels).save(paths[-1])
    return paths


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (None, {"0": "background", "1": "label_1", "4": "label_4"}),
        ("liver, spleen", {"0": "background", "1": "liver", "4": "spleen"}),
        ("spleen=4,liver=01", {"0": "background", "1": "liver", "4": "spleen"}),
        ("air=0,liver=1,cyst=9", {"0": "background", "1": "liver", "9": "cyst"}),
    ],
)
def test_names_of_values(tmp_path: Path, names: str | None, expected: dict[str, str]) -> None:
    assert named_labels(names, None, masks(tmp_path, 1, 4), lenient=False) == expected


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("", "as names, such as liver,spleen, or names with whole numbers, .* found ''"),
        ("liver,", "found ''"),
        ("liver=one", "found 'liver=one'"),
        ("liver=", "found 'liver='"),
        ("=3", "found '=3'"),
        ("liver=70000", "found 'liver=70000'"),
        ("liver=1,spleen", "a value for each name or for none, found 'spleen' without one"),
        ("liver=1,spleen=01", "each value once in --labels, found 1 again"),
        ("liver,liver", "each name once in --labels, found liver again"),
        ("liver", r"values found, \[1, 4\], found 1: liver\. Give a name for each, or names with values"),
    ],
)
def test_malformed_names_are_refused(tmp_path: Path, names: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        named_labels(names, None, masks(tmp_path, 1, 4), lenient=False)


def test_binary_masks_of_1_and_255_are_one_structure(tmp_path: Path) -> None:
    paths = masks(tmp_path, 255, 1, 255, 0)
    with pytest.raises(ValueError, match=r"one foreground value in all masks, found 1 in m1\.png and 255 in m0\.png"):
        label_values(paths)
    assert label_values(paths, lenient=True) == [255]
    both = np.array([[0, 1, 255]], np.uint8)
    Image.fromarray(both).save(paths[3])
    assert label_values(paths) == [1, 255]  # two structures in one file


def test_jpeg_masks_are_refused_with_the_reason(tmp_path: Path) -> None:
    paths = masks(tmp_path, 255, 255, suffix=".jpg")
    with pytest.raises(ValueError, match=r"m0\.jpg: expected a label map .* JPEG compression changes .* as PNG"):
        label_values(paths, lenient=True)  # none is left
    assert label_values([*paths, *masks(tmp_path, 255)], lenient=True) == [255]


@pytest.mark.parametrize(
    "values", [[0, 3, 3, 65535], [0.0, 2.0], [0.0, 0.5], [-1, 1], [0, 70000], [1.0, np.inf], [True, False]]
)
def test_distinct_values_are_those_of_numpy(values: list[float]) -> None:
    np.testing.assert_array_equal(distinct_values(np.array(values)), np.unique(values))


def test_labels_without_foreground_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Expected label values above 0 in labels/, found background only"):
        label_values(masks(tmp_path, 0, 0))

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from tskd_monai.datasets.masks import decode, draw_polygons, fill_outline, read_binary

CODES = {1: (55, 70), 4: (240, 255)}


@pytest.mark.parametrize("row", [20, 3])
@pytest.mark.parametrize("broken", [False, True])
def test_an_outline_is_filled_even_broken_or_cut_by_the_border(row: int, broken: bool) -> None:
    rows, columns = np.mgrid[:40, :50]
    region = ((rows - row) / 15) ** 2 + ((columns - 24) / 20) ** 2 <= 1
    outline = region & ~ndimage.binary_erosion(region, border_value=1)
    if broken:
        outline[row, :24] = False
    filled = fill_outline(outline, Path("a.png"))
    assert filled.dtype == np.uint8
    assert (filled != region).sum() <= 2 * broken  # of a broken one the pixels of the gap


@pytest.mark.parametrize(("value", "message"), [(0, "found an empty image"), (1, "the mask is filled already")])
def test_what_is_no_outline_is_refused(value: int, message: str) -> None:
    mask = np.zeros((20, 20))
    mask[3:15, 3:15] = value
    with pytest.raises(ValueError, match=rf"a\.png, {message}|outline in a\.png.*{message}"):
        fill_outline(mask, Path("a.png"))


def test_ranges_become_labels_and_others_are_named() -> None:
    values = np.array([[0, 55, 70], [240, 255, 63]])
    assert decode(values, CODES, Path("a.png")).tolist() == [[0, 1, 1], [4, 4, 1]]
    with pytest.raises(
        ValueError, match=r"0 or values in 55 to 70, 240 to 255 in the label a\.png, found \[54, 71\] in 2"
    ):
        decode(np.array([0, 54, 71, 60]), CODES, Path("a.png"))


def test_polygons_include_their_edges_and_later_ones_win() -> None:
    label = draw_polygons((8, 9), [(1, [1, 6, 6, 1], [1, 1, 5, 5]), (2, [4, 20, 20, 4], [3, 3, 5, 5])])
    expected = np.zeros((8, 9))
    expected[1:6, 1:7] = 1
    expected[3:6, 4:] = 2  # the part outside the image is cut off
    np.testing.assert_array_equal(label, expected)


def test_binary_masks_of_any_depth_are_read(tmp_path: Path, save: Callable[..., Any]) -> None:
    mask = np.zeros((6, 8), bool)
    mask[2:4, 1:5] = True
    grey = mask.astype(np.uint8)
    stored = {"1bit.png": mask, "8bit.bmp": grey * 255, "ones.png": grey, "palette.gif": grey * 255}
    stored["rgb.png"] = np.stack([grey * 200] * 3, axis=-1)
    for name, pixels in stored.items():
        save(tmp_path / name, pixels)
        np.testing.assert_array_equal(read_binary(tmp_path / name), mask)


@pytest.mark.parametrize(("values", "found"), [([0, 7, 255], r"\[0, 7, 255\]"), ([3, 255], r"\[3, 255\]")])
def test_a_mask_of_other_values_is_refused(
    tmp_path: Path, save: Callable[..., Any], values: list[int], found: str
) -> None:
    save(tmp_path / "a.png", np.array([values * 4], np.uint8))
    with pytest.raises(ValueError, match=f"background 0 and one other value in the mask a.png, found {found}"):
        read_binary(tmp_path / "a.png")
    if values[0] == 0:
        assert read_binary(tmp_path / "a.png", soft=True).tolist() == [[0, 0, 1] * 4]
    save(tmp_path / "b.png", np.array([[[1, 2, 3]]], np.uint8))
    with pytest.raises(ValueError, match=r"one value per pixel in the label b\.png, found colours"):
        read_binary(tmp_path / "b.png")

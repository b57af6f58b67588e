"""Contours and pixels: tracing and filling are inverses, centres on edges belong to one side, faults are named."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.draw import polygon2mask

from tskd_monai.data.contours import filled, traced

SQUARE = np.array([[1.5, 1.5], [1.5, 6.5], [6.5, 6.5], [6.5, 1.5]])
SHAPE = (10, 9)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0.05, 0.95))
def test_filling_the_traced_contours_gives_the_mask(seed: int, share: float) -> None:
    mask = np.random.default_rng(seed).random((13, 11)) < share
    contours = traced(mask)
    np.testing.assert_array_equal(filled(contours, mask.shape, "a mask"), mask)
    assert all(len(contour) >= 4 for contour in contours)


@pytest.mark.parametrize("seed", range(20))
def test_triangles_are_filled_as_by_scikit_image(seed: int) -> None:
    corners = np.random.default_rng(seed).uniform(-2, 14, (3, 2))  # no centre on an edge, where the rules differ
    np.testing.assert_array_equal(filled([corners], (14, 12), "a triangle"), polygon2mask((14, 12), corners))


def test_a_centre_on_a_common_edge_belongs_to_one_of_two_neighbours() -> None:
    left, right = np.array([[0, 0], [3, 0], [3, 5], [0, 5]]), np.array([[3, 0], [6, 0], [6, 5], [3, 5]])
    both = [filled([part.astype(float)], SHAPE, "a") for part in (left, right)]
    assert not (both[0] & both[1]).any() and both[0].sum() + both[1].sum() == 6 * 5


def test_a_hole_is_a_contour_within_another_or_a_keyhole() -> None:
    hole = np.array([[3.5, 3.5], [4.5, 3.5], [4.5, 4.5], [3.5, 4.5]])
    nested = filled([SQUARE, hole], SHAPE, "a")
    keyhole = filled([np.concatenate([SQUARE, SQUARE[:1], hole, hole[:1]])], SHAPE, "a")
    assert nested.sum() == 25 - 1 and not nested[4, 4]
    np.testing.assert_array_equal(keyhole, nested)


def test_a_contour_is_cut_at_the_edge_of_the_image() -> None:
    assert filled([SQUARE - 4], SHAPE, "a").sum() == 9 and not filled([SQUARE + 100], SHAPE, "a").any()


def test_overlaps_are_refused() -> None:
    twice = np.concatenate([SQUARE, SQUARE[:1], SQUARE + 2, SQUARE[:1] + 2])
    with pytest.raises(ValueError, match="not cross themselves in liver, slice 3, found one that runs over 9 pixels"):
        filled([twice], (12, 12), "liver, slice 3")
    for other, shared in ((SQUARE + 2, 9), (SQUARE[::-1], 25)):
        with pytest.raises(ValueError, match=f"beside or within one another in liver.*overlap in {shared} pixels"):
            filled([SQUARE, other], SHAPE, "liver")

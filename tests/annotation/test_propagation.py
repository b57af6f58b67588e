from __future__ import annotations

import numpy as np
import pytest

from tskd_monai.annotation.propagation import Box, PropagationSettings, agree, propagate, reach

SETTINGS = PropagationSettings(margin=0.1, min_area=4)


def square(size: int, start: int = 10) -> np.ndarray:
    """Returns logits of a square."""
    logits = np.full((40, 40), -1.0, np.float32)
    logits[start : start + size, start : start + size] = 1
    return logits


def shown(volume: dict[int, np.ndarray]) -> tuple[list[Box], object]:
    """Returns the list of boxes that are asked for, and a model that finds what a slice shows in its box."""
    boxes: list[Box] = []

    def segment(index: int, box: Box) -> np.ndarray:
        boxes.append(box)
        inside = np.full((40, 40), -1.0, np.float32)
        x1, y1, x2, y2 = (round(edge) for edge in box)
        inside[y1:y2, x1:x2] = volume.get(index, inside)[y1:y2, x1:x2]
        return inside

    return boxes, segment


def test_a_shrinking_structure_is_followed_to_its_end() -> None:
    volume = {6: square(10), 7: square(9), 8: square(8), 9: square(1)}
    boxes, segment = shown(volume)
    found = propagate(volume[6], [7, 8, 9, 10], segment, SETTINGS)  # type: ignore[arg-type]
    assert list(found) == [7, 8]
    np.testing.assert_array_equal(found[8], volume[8])
    assert boxes[0] == (9, 9, 21, 21) and boxes[1] == pytest.approx((9.1, 9.1, 19.9, 19.9))


@pytest.mark.parametrize("other", [square(10, start=18), square(5), square(16, start=9), square(0)])
def test_it_ends_where_the_next_mask_is_another_structure(other: np.ndarray) -> None:
    everywhere = lambda index, box: other  # noqa: E731
    assert propagate(square(10), [7, 8], everywhere, SETTINGS) == {}


def test_it_ends_at_the_limit_and_does_not_start_from_a_speck() -> None:
    _, segment = shown({index: square(10) for index in range(9)})
    limited = PropagationSettings(max_slices=2)
    assert list(propagate(square(10), [5, 6, 7], segment, limited)) == [5, 6]  # type: ignore[arg-type]
    assert propagate(square(1), [5], segment, SETTINGS) == {}  # type: ignore[arg-type]
    assert not agree(square(1) > 0, square(1) > 0, SETTINGS)


def test_each_slice_belongs_to_the_nearest_marked_one() -> None:
    assert reach([5, 2], 9) == {2: ([1, 0], [3]), 5: ([4], [6, 7, 8])}
    reached = [index for index, (below, above) in reach([0, 7, 3], 12).items() for index in (index, *below, *above)]
    assert sorted(reached) == list(range(12))


@pytest.mark.parametrize(
    ("field", "value"),
    [("margin", -0.1), ("min_iou", 2), ("max_area_ratio", 0.5), ("min_area", 0), ("max_slices", 1.5)],
)
def test_settings_out_of_range_are_named(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"Expected {field} .*found {value}"):
        PropagationSettings(**{field: value})  # type: ignore[arg-type]

from __future__ import annotations

from typing import Any

import pytest

from tskd_monai.annotation.prompts import Prompt, read_prompts

LABELS = {"liver": 1, "spleen": 4}
SHAPE = (20, 30, 5)


def test_a_viewers_points_and_box_are_read() -> None:
    request = {"label": "spleen", "foreground": [[3, 4, 2]], "background": [[0, 0, 2]], "roi": [1, 9, 2, 12, 2, 2]}
    expected = Prompt(4, ((1, 2, 2), (9, 12, 2)), ((3, 4, 2),), ((0, 0, 2),))
    assert read_prompts(request, LABELS, SHAPE) == [expected]


def test_a_box_of_four_numbers_lies_on_the_slice_and_a_solid_one_gives_its_middle() -> None:
    (flat,) = read_prompts({"label": "liver", "roi": [1, 2, 9, 12], "slice": 3}, LABELS, SHAPE)
    (solid,) = read_prompts({"label": "liver", "roi": [1, 9, 2, 12, 1, 4]}, LABELS, SHAPE)
    assert flat.box == ((1, 2, 3), (9, 12, 3)) and solid.box == ((1, 2, 2), (9, 12, 2))


def test_the_name_may_be_left_out_of_one_structure_only() -> None:
    assert read_prompts({"foreground": [[1, 1]], "slice": -1}, {"lesion": 1}, (20, 30, 1))[0].label == 1
    with pytest.raises(ValueError, match="one of liver, spleen, found None"):
        read_prompts({"foreground": [[1, 1]]}, LABELS, SHAPE)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"label": "liver"}, "Expected a box .* or points .* of liver, found neither"),
        ({"label": "liver", "foreground": []}, "found neither"),
        ({"label": "pancreas", "roi": [1, 2, 9, 12]}, "found 'pancreas'"),
        ({"label": "liver", "roi": [1, 2, 20, 12]}, r"a box within the image of 20 x 30 x 5 voxels, found \[20"),
        ({"label": "liver", "roi": [1, 2, 9, 12], "slice": 5}, "within the image"),
        ({"label": "liver", "roi": [5, 5, 5, 5]}, "spans more than one voxel"),
        ({"label": "liver", "roi": [9, 2, 1, 12]}, "spans more than one voxel"),
        ({"label": "liver", "roi": [1, 2, float("nan"), 12]}, "found .*nan"),
        ({"label": "liver", "roi": [1, 2, 3]}, r"found \[1, 2, 3\]"),
        ({"label": "liver", "foreground": [[1, 31, 0]]}, "the points of `foreground` within the image"),
        ({"label": "liver", "background": [["a", 1, 0]]}, "points .* as `background`"),
        ({"prompts": []}, r"list of objects as `prompts`, found \[\]"),
        ({"prompts": [{"label": "liver"}]}, "found neither"),
    ],
)
def test_what_cannot_be_prompted_is_named(request_: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_prompts(request_, LABELS, SHAPE)

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from tskd_monai.data.task import Intensity, Label, Task
from tskd_monai.training.case_survey import survey_cases

TASK = Task(
    name="tiny",
    labels=(Label(0, "background"), Label(1, "liver"), Label(4, "spleen")),
    channels=1,
    image_size=(16, 16),
    pixdim=(1.0, 1.0),
    axcodes="PLS",
    intensity=Intensity("percentile", 1.0, 99.0),
)


def read(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return a volume of four slices; class 1 on the slices that the entry names."""
    if entry["case"] == "broken":
        try:
            raise ValueError("Expected a whole file, found half of one.")
        except ValueError as error:
            raise RuntimeError("applying transform LoadImaged") from error
    label = np.zeros((1, 16, 16, 4), dtype=np.uint8)
    for index in entry.get("liver", []):
        label[0, :2, :4, index] = 1
    item = {"image": np.zeros((1, 16, 16, 4), dtype=np.float32), "label": label, "case": entry["case"]}
    return {key: value for key, value in item.items() if key != entry.get("without")}


def test_voxels_slices_and_cases_of_each_class_are_counted() -> None:
    survey = survey_cases([{"case": "a", "liver": [0, 1]}, {"case": "b", "liver": [3]}, {"case": "c"}], read, TASK)
    assert (survey.cases, survey.slices, survey.unreadable) == (3, 12, ())
    assert survey.class_voxels is not None
    assert survey.class_voxels.tolist() == [3 * 1024 - 24, 24, 0]
    assert survey.class_slices.tolist() == [12, 3, 0]
    assert survey.class_cases.tolist() == [3, 2, 0]
    assert survey.held_bytes == 3 * 1024 * (4 + 1)


def test_only_labelled_slices_count() -> None:
    survey = survey_cases([{"case": "a", "liver": [0, 1], "slices": [1, 2]}], read, TASK)
    assert survey.slices == 2 and survey.class_slices.tolist() == [2, 1, 0]


def test_images_without_labels_have_no_classes() -> None:
    survey = survey_cases([{"case": "a", "without": "label"}], read, TASK)
    assert survey.slices == 4 and survey.class_voxels is None


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"case": "broken"}, "case broken: Expected a whole file, found half of one."),
        ({"case": "a", "slices": [9]}, "case a: Expected slices of 0 to 3, found [9]."),
    ],
)
def test_a_case_that_cannot_be_read_is_named_and_the_others_go_on(entry: dict[str, Any], reason: str) -> None:
    survey = survey_cases([entry, {"case": "b"}], read, TASK)
    assert (survey.cases, survey.slices) == (2, 4)
    assert survey.unreadable == (reason,)

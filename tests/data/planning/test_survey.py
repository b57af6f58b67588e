"""A survey refuses what planning refuses, one case at a time, and describes the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from tskd_monai.data.planning.survey import Refusal, refusal, survey_dataset

LABELS = {"0": "background", "1": "organ"}


def image_entry(
    folder: Path, case: str, shape: tuple[int, ...], suffix: str = ".png", value: int = 1
) -> dict[str, Any]:
    """Write an image of noise with its label; return the entry."""
    generator = np.random.default_rng(sum(case.encode()))
    pixels = generator.integers(0, 255, shape, dtype=np.uint8)
    label = np.zeros(shape[:2] if suffix == ".png" else shape, np.uint8)
    label[4:12, 4:12] = value
    entry = {"case": case, "image": str(folder / f"{case}{suffix}"), "label": str(folder / f"{case}_seg{suffix}")}
    for path, array in ((entry["image"], pixels), (entry["label"], label)):
        if suffix == ".png":
            Image.fromarray(array).save(path)
        else:
            nib.save(nib.Nifti1Image(array, np.diag([2, 2, 5, 1])), path)
    return entry


def datalist(*training: dict[str, Any], **sections: Any) -> dict[str, Any]:
    return {"labels": LABELS, "training": list(training), **sections}


@pytest.mark.parametrize(
    ("odd", "suffix", "message"),
    [
        ((16, 16, 4), ".nii.gz", "Expected images of one kind, found the 2D image .*png and the volume odd.nii.gz"),
        ((16, 16, 3), ".png", r"Expected images of one kind, found 1 channel\(s\) in b.png and 3 in odd.png"),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_the_minority_is_refused_at_any_position(
    tmp_path: Path, odd: tuple[int, ...], suffix: str, message: str, first: bool
) -> None:
    usual = [image_entry(tmp_path, case, (16, 16)) for case in "bcd"]
    other = image_entry(tmp_path, "odd", odd, suffix)
    found = survey_dataset(datalist(*([other, *usual] if first else [*usual, other])))
    (refused,) = found.refused
    assert (refused.section, refused.case) == ("training", "odd")
    with pytest.raises(ValueError, match=message):
        raise ValueError(refused.reason)
    assert found.task is not None and found.task.channels == 1


def test_volumes_are_those_of_the_labelled_slices_and_compare_whole_labels_only(tmp_path: Path) -> None:
    entries = [image_entry(tmp_path, f"case{index}", (16, 16, 4), ".nii.gz") for index in range(6)]
    entries[0]["slices"] = [1]
    found = survey_dataset(datalist(*entries))
    assert found.volume_unit == "mL"
    assert [case.volumes for case in found.cases] == [{1: pytest.approx(64 * 0.02)}] + 5 * [
        {1: pytest.approx(256 * 0.02)}
    ]
    assert [(case.labelled_slices, case.shown_slices, case.partly) for case in found.cases] == [
        (1, 1, True),
        *5 * [(4, 4, False)],
    ]
    assert not found.unlike.texts


def test_slices_that_a_volume_lacks_refuse_this_case(tmp_path: Path) -> None:
    entries = [image_entry(tmp_path, f"case{index}", (16, 16, 4), ".nii.gz") for index in range(2)]
    entries[1]["slices"] = [9]
    found = survey_dataset(datalist(*entries))
    assert found.refused == [Refusal("training", "case1", "Expected slices of 0 to 3 of case case1, found [9].")]
    assert found.task is not None and len(found.cases) == 2


def test_without_a_case_that_can_be_read_nothing_is_planned(tmp_path: Path) -> None:
    entry = image_entry(tmp_path, "a", (16, 16), value=5)
    found = survey_dataset(datalist(entry))
    assert found.task is None and not found.cases
    assert [refused.section for refused in found.refused] == ["training", ""]


def test_a_blank_image_is_unusual_and_no_copy_of_another(tmp_path: Path) -> None:
    entries = [image_entry(tmp_path, case, (16, 16)) for case in "abc"]
    for entry in entries[:2]:
        Image.fromarray(np.full((16, 16), 7, np.uint8)).save(entry["image"])
    found = survey_dataset(datalist(*entries))
    assert not found.refused and not found.same_images
    assert found.unlike.texts == {name: ["blank: one value only (7)"] for name in "ab"}
    assert found.same_labels == [["a", "b", "c"]]


def test_a_refusal_names_the_case_and_no_folder(tmp_path: Path) -> None:
    folder = tmp_path / "Mueller_Hans"
    (folder / "p1").mkdir(parents=True)
    entry = {"case": "p1", "image": str(folder / "p1")}
    error = ValueError(f"{tmp_path}/list.json: expected {folder}/p1 of case p1, not Mueller_Hans")
    found = refusal("training", entry, error, source=f"{tmp_path}/list.json")
    assert "Mueller" not in str(found) and str(tmp_path) not in str(found)
    assert str(found).startswith("training, case p1: expected ") and "of case p1" in found.reason
    missing = {"case": "p2", "image": "Mueller_Hans/scan"}
    assert "Mueller" not in str(refusal("test", missing, FileNotFoundError("expected Mueller_Hans/scan of case p2")))

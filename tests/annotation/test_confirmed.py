from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tskd_monai.annotation.confirmed import Proposal, Proposals, confirmed_slices, read_saved_label
from tskd_monai.data.nifti import write_nifti
from tskd_monai.datasets.phantom.render import make_grid

SHAPE, VALUES = (8, 9, 6), [0, 1, 4]
AFFINE = make_grid(SHAPE, (2.0, 2.0, 6.0), "LAI").matrix  # the last array axis runs against the numbers of slices


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    write_nifti(path, array, affine)
    return path


@pytest.fixture
def proposed() -> np.ndarray:
    label = np.zeros(SHAPE, np.uint16)
    label[2:5, 3:6, 1:4] = 1
    return label


def test_what_was_marked_or_changed_is_confirmed_and_the_rest_is_not(tmp_path: Path, proposed: np.ndarray) -> None:
    image = save(tmp_path / "scan.nii.gz", np.random.default_rng(0).normal(size=SHAPE).astype(np.float32))
    corrected = proposed.copy()
    corrected[2, 3, 0] = 4
    saved = read_saved_label(image, save(tmp_path / "label.nii.gz", corrected), VALUES)
    proposal = Proposal(proposed, (3,))
    assert confirmed_slices(saved, proposal) == [3, 5]  # the changed array index 0 is slice 5
    assert confirmed_slices(saved, proposal, [0, 3]) == [0, 3, 5]
    assert confirmed_slices(saved, proposal, "all") is None
    assert confirmed_slices(saved, None) is None and confirmed_slices(saved, None, [2]) == [2]


@pytest.mark.parametrize("listed", [[6], [-1], [1.5], "some", {"0": 1}])
def test_listed_slices_exist(tmp_path: Path, proposed: np.ndarray, listed: object) -> None:
    image = save(tmp_path / "scan.nii.gz", np.ones(SHAPE, np.float32))
    saved = read_saved_label(image, save(tmp_path / "label.nii.gz", proposed), VALUES)
    with pytest.raises(ValueError, match=r"slices from 0 to 5 as `confirmed_slices`, or all, found"):
        confirmed_slices(saved, Proposal(proposed, (3,)), listed)
    with pytest.raises(ValueError, match="at least one confirmed slice"):
        confirmed_slices(saved, Proposal(proposed, ()))


def test_a_label_of_another_patient_is_refused(tmp_path: Path, proposed: np.ndarray) -> None:
    image = save(tmp_path / "scan.nii.gz", np.ones(SHAPE, np.float32))
    moved = AFFINE.copy()
    moved[:3, 3] += 50
    for name, label, affine, message in (
        ("moved", proposed, moved, "moved.*of image scan"),
        ("larger", np.zeros((9, 9, 6), np.uint8), AFFINE, "larger.*of image scan"),
        ("values", proposed * 2, AFFINE, r"values.*expected label values \[0, 1, 4\], found also \[2\]"),
    ):
        path = save(tmp_path / f"{name}.nii.gz", label, affine)
        with pytest.raises(ValueError, match=message):
            read_saved_label(image, path, VALUES)


def test_proposals_of_one_image_add_up_and_the_last_of_a_structure_counts(tmp_path: Path) -> None:
    proposals = Proposals(tmp_path / "proposals")
    assert proposals.read("scan") is None
    first, second, third = (np.zeros(SHAPE, np.uint16) for _ in range(3))
    first[0, 0, 0], second[1, 1, 1], third[2, 2, 2] = 1, 4, 1
    for label_map, marked in ((first, [2]), (second, [4]), (third, [2])):
        proposals.add("scan", label_map, marked, [int(label_map.max())])
    found = proposals.read("scan")
    assert found is not None and found.marked == (2, 4) and proposals.read("other") is None
    np.testing.assert_array_equal(found.label_map, second + third)

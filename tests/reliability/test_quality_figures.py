"""The figures on the quality of cases, and the wrong inputs that they are measured with."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.reliability.quality_figures import auroc, risk_coverage_area
from tests.reliability.wrong_inputs import CHANGES, write_changed


def test_auroc_counts_ties_half() -> None:
    assert auroc(np.array([2.0, 3.0]), np.array([0.0, 1.0])) == 1
    assert auroc(np.array([1.0]), np.array([0.0, 1.0, 2.0])) == 0.5
    assert auroc(np.array([1.0, 1.0]), np.array([1.0])) == 0.5


def test_area_under_the_risk_coverage_curve() -> None:
    risk = np.array([0.0, 0.4, 0.2])
    assert risk_coverage_area(-risk, risk) == pytest.approx((0.0 + 0.1 + 0.2) / 3)
    assert risk_coverage_area(risk, risk) == pytest.approx((0.4 + 0.3 + 0.2) / 3)
    assert risk_coverage_area(np.zeros(3), risk) == pytest.approx(risk.mean())  # nothing known: as at random


@pytest.mark.parametrize("name", CHANGES)
def test_wrong_input_keeps_or_moves_a_point_as_it_says(name: str, tmp_path: Path) -> None:
    volume, affine = np.zeros((16, 12, 8), np.float32), np.diag([-2.0, 2.0, 5.0, 1.0])
    volume[3, 4, 2], volume[9, 7, 6] = 100, 50
    (tmp_path / "changed").mkdir()
    nib.save(nib.Nifti1Image(volume, affine), tmp_path / "image.nii.gz")
    changed = nib.load(write_changed(tmp_path / "image.nii.gz", name, tmp_path / "changed"))
    found = changed.affine @ [*np.unravel_index(changed.get_fdata().argmax(), changed.shape), 1]
    place = affine @ [3, 4, 2, 1]
    if name == "last half of the slices":
        place = affine @ [9, 7, 6, 1]
    elif name == "left-right header":
        place = affine @ [15 - 3, 4, 2, 1]
    elif name == "head-feet header":
        place = affine @ [3, 4, 7 - 2, 1]
    elif name == "every second slice, unstated":
        place = affine @ [3, 4, 1, 1]
    elif name == "motion":
        assert changed.get_fdata().std() > 0 and not np.allclose(changed.get_fdata(), volume)
        return
    assert found.tolist() == place.tolist()
    if name == "every second slice":
        assert changed.header.get_zooms()[2] == 10

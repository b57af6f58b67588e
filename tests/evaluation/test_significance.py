"""Tests of paired differences and the fraction of a gap, against values computed by hand."""

from __future__ import annotations

import pytest

from tskd_monai.evaluation.significance import gap_closed, holm, sign_flip_p


def test_holm_steps_down() -> None:
    adjusted = holm({"a": 0.04, "b": 0.01, "c": 0.03})
    assert adjusted == {"b": pytest.approx(0.03), "c": pytest.approx(0.06), "a": pytest.approx(0.06)}


def test_sign_flips_find_a_difference_that_every_patient_shows() -> None:
    second = {str(case): 0.5 for case in range(10)}
    first = {case: 0.6 + int(case) / 100 for case in second}
    assert sign_flip_p(first, second) == pytest.approx(2 / 2**10)
    mixed = {case: 0.5 + (0.1 if int(case) % 2 else -0.1) for case in second}
    assert sign_flip_p(mixed, second) > 0.9


def test_gap_closed_is_the_fraction_of_the_teachers_lead() -> None:
    scratch = {str(case): 0.5 + case / 100 for case in range(8)}
    teacher = {case: value + 0.2 for case, value in scratch.items()}
    student = {case: value + 0.15 for case, value in scratch.items()}
    closed = gap_closed(student, scratch, teacher)
    assert closed.gap == pytest.approx(0.2) and closed.fraction == pytest.approx(0.75)
    assert closed.fraction_interval == pytest.approx((0.75, 0.75))

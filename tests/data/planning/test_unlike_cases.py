"""Outliers by a robust z-score of the logarithm."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tskd_monai.data.planning.unlike_cases import FEWEST_TO_COMPARE, outliers

VOLUMES = st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=40)


def named(values: Sequence[float]) -> dict[str, float]:
    return {str(index): value for index, value in enumerate(values)}


def test_one_far_value_among_alike_ones_is_found_with_its_multiple() -> None:
    found = outliers(named([100, 110, 90, 105, 95, 1000, 10]), 1.5)
    assert list(found) == ["5", "6"]
    assert found["5"] == pytest.approx(10) and found["6"] == pytest.approx(0.1)


def test_equal_values_but_for_a_little_are_alike() -> None:
    assert outliers(named([100.0] * 9 + [140.0]), 1.5) == {}
    assert list(outliers(named([100.0] * 9 + [160.0]), 1.5)) == ["9"]


def test_two_kinds_of_cases_are_both_usual_and_what_is_beyond_both_is_not() -> None:
    kinds = [1000.0 + index for index in range(14)] + [100.0 + index for index in range(6)]
    assert outliers(named(kinds), 3.0) == {}
    assert list(outliers(named([*kinds, 1e5]), 3.0)) == ["20"]


@given(st.lists(st.integers(1, 1000), max_size=40), st.sampled_from([1e-3, 1e3]))
def test_the_unit_does_not_matter(values: list[int], unit: float) -> None:
    factor = 2**0.5  # no ratio of whole numbers lies on the limit
    assert list(outliers(named(values), factor)) == list(outliers(named([value * unit for value in values]), factor))


@given(VOLUMES)
def test_most_values_are_no_outliers(values: list[float]) -> None:
    found = outliers(named(values), 1.5)
    assert len(found) <= len(values) / 2
    assert len(values) >= FEWEST_TO_COMPARE or not found
    assert all(ratio >= 1.5 or ratio <= 1 / 1.5 for ratio in found.values())


def test_absent_and_few_values_are_not_compared() -> None:
    assert outliers(named([0.0, 100, 100, 100, 1]), 1.5) == {}
    assert outliers(named([0.0, 100, 100, 100, 100, 1]), 1.5) == {"5": pytest.approx(0.01)}

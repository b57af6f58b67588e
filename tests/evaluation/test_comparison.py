from __future__ import annotations

from math import isnan

import numpy as np
import pytest

from tskd_monai.evaluation.comparison import compare
from tskd_monai.evaluation.intervals import bootstrap_mean_interval
from tskd_monai.evaluation.summary import class_means, summarise

DICE = {"a": 0.8, "b": 0.9, "c": 0.7}
NAN = float("nan")


def row(case: str, label: int, dice: float) -> dict:
    metrics = dict.fromkeys(("iou", "hd95_mm", "assd_mm", "nsd", "volume_ml", "reference_volume_ml"), NAN)
    return {"case": case, "label": label, "name": f"organ {label}", "dice": dice, "missed": 0, **metrics}


def test_a_method_against_itself_is_exactly_zero() -> None:
    result = compare(DICE, DICE)
    assert (result.mean, result.median, result.interval_95) == (0, 0, (0, 0))
    assert (result.first_better, result.second_better) == (0, 0)


def test_a_constant_gain_is_found_exactly_and_changes_sign_when_swapped() -> None:
    better = {case: dice + 0.125 for case, dice in DICE.items()}
    forward, backward = compare(better, DICE), compare(DICE, better)
    assert forward.mean == pytest.approx(0.125)
    assert forward.interval_95 == pytest.approx((0.125, 0.125))
    assert (backward.mean, backward.median) == pytest.approx((-0.125, -0.125))
    assert (forward.first_better, backward.second_better) == (3, 3)


def test_few_patients_are_named_as_such() -> None:
    assert "n = 3 patients: the interval is not informative" in compare(DICE, dict.fromkeys(DICE, 0.5)).sentence()
    alone = compare({"a": 0.9}, {"a": 0.8})
    assert "n = 1 patient: the interval is not informative" in alone.sentence()
    assert isnan(alone.interval_95[0]) and "bootstrap" not in alone.sentence()


def test_an_interval_around_zero_shows_no_difference() -> None:
    first = {str(index): 0.8 + 0.01 * (-1) ** index for index in range(8)}
    sentence = compare(first, dict.fromkeys(first, 0.8)).sentence()
    assert "no difference is shown" in sentence and "not informative" not in sentence


def test_the_order_of_cases_does_not_matter_but_the_cases_do() -> None:
    assert compare(DICE, dict(reversed(DICE.items()))).mean == 0
    with pytest.raises(ValueError, match=r"only in the first \['c'\], only in the second \['d'\]"):
        compare(DICE, {"a": 0.1, "b": 0.1, "d": 0.1})


def test_a_case_without_dice_is_left_out() -> None:
    result = compare({"a": 0.75, "b": NAN}, {"a": 0.5, "b": NAN})
    assert (result.patients, result.mean) == (1, 0.25)
    with pytest.raises(ValueError, match="at least one case"):
        compare({"a": NAN}, {"a": NAN})


def test_the_interval_has_its_nominal_coverage() -> None:
    generator = np.random.default_rng(3)
    intervals = [bootstrap_mean_interval(generator.normal(size=40).tolist(), resamples=200) for _ in range(200)]
    covered = sum(low <= 0 <= high for low, high in intervals)
    assert 0.88 <= covered / 200 <= 0.98


def test_the_same_seed_gives_the_same_interval() -> None:
    values = list(DICE.values())
    assert bootstrap_mean_interval(values, seed=5) == bootstrap_mean_interval(values, seed=5)
    assert bootstrap_mean_interval(values, seed=5, resamples=50) != bootstrap_mean_interval(
        values, seed=6, resamples=50
    )
    with pytest.raises(ValueError, match="finite values"):
        bootstrap_mean_interval([0.1, NAN])


def test_a_patient_counts_once_however_many_images_there_are() -> None:
    rows = [row("a", 1, 1.0), row("a", 1, 0.5), row("b", 1, 0.25)]
    assert class_means(rows) == {"a": 0.75, "b": 0.25}
    assert summarise(rows)["cases"] == 2
    assert summarise(rows)["dice"]["mean"] == 0.5


def test_an_absent_class_does_not_enter_the_mean() -> None:
    rows = [row("a", 1, 0.5), row("a", 2, NAN), row("b", 1, 1.0), row("b", 2, 0.5)]
    assert class_means(rows) == {"a": 0.5, "b": 0.75}
    assert summarise(rows)["classes"]["organ 2"]["dice"] == {"mean": 0.5, "sd": None, "median": 0.5, "cases": 1}


@pytest.mark.parametrize(("size", "resamples"), [(2, 999), (13, 1000), (40, 2500), (300, 1001)])
def test_resamples_are_those_of_one_draw_after_another(size: int, resamples: int) -> None:
    data = np.random.default_rng(size).random(size)
    generator = np.random.default_rng(3)
    means = [data[generator.integers(size, size=size)].mean() for _ in range(resamples)]
    expected = tuple(np.percentile(means, [2.5, 97.5]))
    assert bootstrap_mean_interval(data.tolist(), seed=3, resamples=resamples) == pytest.approx(expected, rel=1e-12)

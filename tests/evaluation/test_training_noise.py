"""Differences with the noise of training: values by hand, and intervals that contain a simulated truth."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tskd_monai.evaluation.training_noise import TrainedScores, seeded_difference

PATIENTS = [f"{number}" for number in range(10)]


def runs(method: dict[tuple[int, int], float], fold: int | None = None, **others: float) -> list[TrainedScores]:
    """Runs in which every patient has the score of its (teacher, student), and some another one."""
    return [
        TrainedScores(fold, teacher, student, {case: others.get(f"case_{case}", score) for case in PATIENTS})
        for (teacher, student), score in method.items()
    ]


def test_seeds_without_noise_leave_the_interval_of_the_patients() -> None:
    values = {case: 0.5 + int(case) / 10 for case in PATIENTS}
    first, second = ([TrainedScores(None, t, 0, values) for t in range(2)], runs({(0, 0): 0.5}))
    found = seeded_difference(first, second)
    error = np.std(list(values.values()), ddof=1) / math.sqrt(10)
    assert found.mean == pytest.approx(0.45) and found.patients == 10
    assert found.interval_95 == pytest.approx((0.45 - 2.262 * error, 0.45 + 2.262 * error), abs=0.01)


def test_the_noise_of_two_seeds_is_their_standard_error() -> None:
    found = seeded_difference(runs({(0, 0): 0.6, (0, 1): 0.8}), runs({(0, 0): 0.5}))
    assert found.mean == pytest.approx(0.2)
    # std / sqrt(2) = 0.1, with one degree of freedom
    assert found.interval_95 == pytest.approx((0.2 - 12.706 * 0.1, 0.2 + 12.706 * 0.1), abs=0.01)
    assert found.p == pytest.approx(0.2952, abs=0.002)  # t = 2


def test_students_of_a_teacher_are_drawn_with_it() -> None:
    together = seeded_difference(runs({(t, s): 0.6 + 0.2 * t for t in (0, 1) for s in (0, 1)}), runs({(0, 0): 0.5}))
    apart = seeded_difference(runs({(0, s): 0.6 + 0.2 * (s > 1) for s in range(4)}), runs({(0, 0): 0.5}))
    assert together.mean == apart.mean == pytest.approx(0.2)
    assert np.diff(together.interval_95) > 1.5 * np.diff(apart.interval_95)


def test_one_run_has_no_noise_of_training_and_methods_are_compared_on_common_patients() -> None:
    found = seeded_difference(runs({(0, 0): 0.7}, case_3=math.nan), runs({(0, 0): 0.5}, case_4=math.nan))
    assert found.patients == 8
    assert found.interval_95 == pytest.approx((0.2, 0.2)) and found.p < 1e-6


def test_folds_are_different_trainings_and_a_fold_that_one_method_lacks_is_left_out() -> None:
    values = dict.fromkeys(PATIENTS, 0.6)
    others = {f"other {case}": 0.8 for case in PATIENTS}
    first = [TrainedScores(0, 0, 0, values), TrainedScores(1, 0, 0, others)]
    second = [TrainedScores(0, 0, 0, dict.fromkeys(values, 0.5))]
    assert seeded_difference(first, second).mean == pytest.approx(0.1)
    both = [*second, TrainedScores(1, 0, 0, dict.fromkeys(others, 0.5))]
    assert seeded_difference(first, both).mean == pytest.approx(0.2)
    with pytest.raises(ValueError, match="at least one patient"):
        seeded_difference(first[1:], second)
    one = seeded_difference([TrainedScores(0, 0, 0, {"a": 0.6})], [TrainedScores(0, 0, 0, {"a": 0.5})])
    assert one.patients == 1 and math.isnan(one.p) and math.isnan(one.interval_95[0])


@pytest.mark.parametrize(("folds", "patients", "least"), [(5, 3, 0.94), (1, 20, 0.91)])
def test_the_interval_contains_a_simulated_truth(folds: int, patients: int, least: float) -> None:
    """Noise as seen on CHAOS, with three teachers of two students each."""
    generator, truth, contained = np.random.default_rng(0), 0.02, 0
    for _ in range(400):
        first, second = [], []
        for fold in range(folds):
            cases = {f"{fold}-{number}": generator.normal(truth, 0.03) for number in range(patients)}
            for teacher in range(3):
                of_teacher = generator.normal(0, 0.015)
                for student in range(2):
                    moved = of_teacher + generator.normal(0, 0.01)
                    values = {case: gain + moved + generator.normal(0, 0.01) for case, gain in cases.items()}
                    first.append(TrainedScores(fold, teacher, (teacher, student), values))
            for student in range(2):
                moved = generator.normal(0, 0.01)
                values = {case: moved + generator.normal(0, 0.01) for case in cases}
                second.append(TrainedScores(fold, 0, student, values))
        low, high = seeded_difference(first, second, resamples=500).interval_95
        contained += low <= truth <= high
    assert contained / 400 >= least

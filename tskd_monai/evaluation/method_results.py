"""Results of methods on the same patients: rows of metrics of training runs, in folds and with seeds.

Patients are the unit. Seeds are averaged within a patient or, where results state the seeds of teachers and students,
resampled with the patients.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tskd_monai.evaluation.comparison import PairedComparison, compare
from tskd_monai.evaluation.significance import Patients
from tskd_monai.evaluation.summary import class_means, finite_mean
from tskd_monai.evaluation.training_noise import SeededDifference, TrainedScores, seeded_difference

Result = Mapping[str, Any]
"""A training run's `method`, `fold`, `seed`, perhaps `teacher_seed` and `student_seed`, and `rows` of metrics."""


def kept_numbers(row: dict[str, Any]) -> dict[str, Any]:
    """Returns the row with the numbers that the tables need; an undefined one is None."""
    numbers = {key: None if row[key] != row[key] else round(row[key], 6) for key in ("dice", "hd95_mm", "nsd")}
    return {"case": row["case"], "label": row["label"], "name": row["name"], **numbers, "missed": row["missed"]}


def patient_means(results: Sequence[Result], metric: str) -> dict[str, float]:
    """Returns patient -> mean over seeds of the mean of `metric` over the classes; undefined values are left out."""
    values: dict[str, list[float]] = {}
    for result in results:
        for case, value in _of_patients(result, metric).items():
            values.setdefault(case, []).append(value)
    return {case: finite_mean(of_case) for case, of_case in values.items()}


def paired(first: Patients, second: Patients) -> PairedComparison:
    """Returns the paired difference of two methods on the patients that both have: folds may still be missing."""
    both = sorted(first.keys() & second.keys())
    return compare({case: first[case] for case in both}, {case: second[case] for case in both})


def has_seeds(results: Sequence[Result]) -> bool:
    """Returns whether the results state the seeds of teachers and students."""
    return bool(results) and all("student_seed" in result for result in results)


def seeded(first: Sequence[Result], second: Sequence[Result], metric: str) -> SeededDifference:
    """Returns the difference of two methods on the patients that both have, seeds and patients resampled."""
    return seeded_difference([_scores(one, metric) for one in first], [_scores(one, metric) for one in second])


def _scores(result: Result, metric: str) -> TrainedScores:
    teacher = (result["seed"], result["teacher_seed"])
    return TrainedScores(result["fold"], teacher, (*teacher, result["student_seed"]), _of_patients(result, metric))


def _of_patients(result: Result, metric: str) -> dict[str, float]:
    rows = [{**row, metric: math.nan if row[metric] is None else row[metric]} for row in result["rows"]]
    return class_means(rows, metric)

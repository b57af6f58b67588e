"""Assignment of patients to sections: the official split if there is one, else a seeded draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tskd_monai.datasets.dataset import Sample

DRAWN = ("training", "validation", "test")
DEFAULT_SPLIT = (0.7, 0.1, 0.2)
"""Fractions of the patients for training, validation and test."""


def draw_sections(cases: Sequence[str], split: Sequence[float], seed: int) -> dict[str, str]:
    """Returns the section of each patient, drawn from the seed independently of the order of the patients.

    Args:
        cases: ids of the patients.
        split: fractions for training, validation and test, which add up to 1, or numbers of patients, which add up to
            their total.
        seed: seed of the draw.

    Raises:
        ValueError: if the split does not add up, training gets no patient, or the seed is negative.
    """
    if seed < 0:
        raise ValueError(f"Expected --seed of 0 or more, found {seed}.")
    ends = np.cumsum(_counts(len(cases), split))
    shuffled = np.random.default_rng(seed).permutation(sorted(cases))
    sections = np.searchsorted(ends, np.arange(len(cases)), side="right")
    return {str(case): DRAWN[section] for case, section in zip(shuffled, sections, strict=True)}


def assign_sections(samples: Sequence[Sample], split: Sequence[float], seed: int) -> dict[str, str]:
    """Returns the section of each patient who has a labelled image.

    Official validation and test sections are kept. Official training patients, or all if there is no official split,
    are distributed over the sections that are not official; fractions then apply to these patients.

    Raises:
        ValueError: if a patient is in two official sections, besides the errors of `draw_sections`.
    """
    official: dict[str, str | None] = {}
    for sample in samples:
        if sample.label is not None and official.setdefault(sample.case, sample.official) != sample.official:
            raise ValueError(
                f"Expected each patient in one official section, found {sample.case} in {official[sample.case]} and "
                f"{sample.official}; the download is mixed up."
            )
    fixed = {case: section for case, section in official.items() if section in ("validation", "test")}
    open_cases = [case for case in official if case not in fixed]
    taken = set(fixed.values())
    if taken:
        split = _without(split, taken)
    return {**fixed, **(draw_sections(open_cases, split, seed) if open_cases else {})}


def draw_folds(sections: Mapping[str, str], number: int, seed: int) -> list[dict[str, list[str]]]:
    """Returns folds for cross-validation by patient: each patient is tested once.

    Validation takes as many patients as it has in `sections`, from those that the next fold tests.

    Args:
        sections: section of each patient; leave out those of official sections.
        number: number of folds, at least 3.
        seed: seed of the draw.

    Raises:
        ValueError: if there are fewer than three folds or fewer patients than folds.
    """
    if not 3 <= number <= len(sections):
        raise ValueError(f"Expected 3 to {len(sections)} folds, one patient each at least, found {number}.")
    shuffled = [str(case) for case in np.random.default_rng(seed).permutation(sorted(sections))]
    parts = [shuffled[turn::number] for turn in range(number)]
    held_out = max(1, sum(section == "validation" for section in sections.values()))
    folds = []
    for turn in range(number):
        validation = parts[(turn + 1) % number][:held_out]
        apart = {*parts[turn], *validation}
        training = sorted(case for case in sections if case not in apart)
        folds.append({"training": training, "validation": sorted(validation), "test": sorted(parts[turn])})
    return folds


def _without(split: Sequence[float], taken: set[str]) -> tuple[float, ...]:
    """Returns the split with 0 for official sections; fractions are rescaled to add up to 1."""
    rest = [0.0 if name in taken else value for name, value in zip(DRAWN, split, strict=True)]
    fractions = abs(sum(split) - 1) < 1e-6 and sum(rest) > 0
    return tuple(value / sum(rest) if fractions else value for value in rest)


def _counts(total: int, split: Sequence[float]) -> list[int]:
    """Returns the number of patients per section; the rest left by fractions goes to the largest remainders."""
    if abs(sum(split) - 1) < 1e-6:
        exact = np.array(split) * total
        counts = np.floor(exact + 1e-9).astype(int)
        for index in np.argsort(np.round(counts - exact, 6), kind="stable")[: total - counts.sum()]:
            counts[index] += 1
    else:
        counts = np.array(split)
    if min(counts) < 0 or counts[0] < 1 or sum(counts) != total or any(count != int(count) for count in counts):
        raise ValueError(
            f"Expected --split as fractions that add up to 1, or as numbers of patients that add up to {total}, with "
            f"at least one in training, found {list(split)}."
        )
    return [int(count) for count in counts]

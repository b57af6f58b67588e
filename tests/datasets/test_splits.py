from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tskd_monai.datasets.dataset import OutputFile, Sample
from tskd_monai.datasets.splits import assign_sections, draw_folds, draw_sections

CASES = [f"p{number:02d}" for number in range(20)]


def _sample(case: str, official: str | None = None, labelled: bool = True) -> Sample:
    file = OutputFile(f"{case}.png", Path("source"), lambda path: None)
    return Sample(case, file, file if labelled else None, official=official)


@pytest.mark.parametrize(
    ("split", "counts"),
    [((0.7, 0.1, 0.2), (14, 2, 4)), ((11, 5, 4), (11, 5, 4)), ((0.5, 0.26, 0.24), (10, 5, 5)), ((1, 0, 0), (20, 0, 0))],
)
def test_a_split_has_its_counts_and_does_not_depend_on_order(split: tuple, counts: tuple) -> None:
    sections = draw_sections(CASES, split, seed=3)
    assert tuple(Counter(sections.values())[name] for name in ("training", "validation", "test")) == counts
    assert draw_sections(CASES[::-1], split, seed=3) == sections
    assert split == (1, 0, 0) or draw_sections(CASES, split, seed=4) != sections


@pytest.mark.parametrize("split", [(0.7, 0.1, 0.1), (10, 5, 4), (0, 10, 10), (21, -1, 0), (9.5, 5.5, 5)])
def test_a_split_that_does_not_add_up_is_refused(split: tuple) -> None:
    with pytest.raises(ValueError, match="fractions that add up to 1, or as numbers of patients that add up to 20"):
        draw_sections(CASES, split, seed=0)


def test_official_sections_are_kept_and_the_rest_is_drawn() -> None:
    samples = [_sample(case, "training") for case in CASES] + [_sample("t1", "test"), _sample("u", labelled=False)]
    sections = assign_sections(samples, (0.7, 0.1, 0.2), seed=0)
    assert sections["t1"] == "test" and "u" not in sections
    assert Counter(sections.values()) == {"training": 18, "validation": 2, "test": 1}
    samples.append(_sample("v1", "validation"))
    assert Counter(assign_sections(samples, (0.7, 0.1, 0.2), 0).values())["training"] == 20
    with pytest.raises(ValueError, match="each patient in one official section, found t1 in test and training"):
        assign_sections([*samples, _sample("t1", "training")], (0.7, 0.1, 0.2), 0)


def test_folds_test_each_patient_once_and_keep_sections_apart() -> None:
    sections = draw_sections(CASES[:15], (10, 2, 3), seed=1)
    folds = draw_folds(sections, 5, seed=1)
    assert sorted(case for fold in folds for case in fold["test"]) == CASES[:15]
    for fold in folds:
        assert [len(fold[name]) for name in ("training", "validation", "test")] == [10, 2, 3]
        assert sorted(sum(fold.values(), [])) == CASES[:15]
    with pytest.raises(ValueError, match="Expected 3 to 15 folds, one patient each at least, found 16"):
        draw_folds(sections, 16, seed=1)

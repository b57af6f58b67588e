"""The patients on whom recipes are chosen: a suite that chooses scores only them, a primary table has none of them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import yaml

FILE = Path(__file__).with_name("recipe_patients.yaml")


def recipe_patients(folder: str, suite: str = "") -> list[str]:
    """Returns the recipe patients of a dataset; those of the first round for its suites; none for other datasets."""
    content = yaml.safe_load(FILE.read_text())
    return list(content["first_round"].get(suite, {}).get(folder, content.get(folder, [])))


def check_scored(cases: Iterable[str], folder: str, score: str, what: str) -> None:
    """Raises ValueError if patients are scored whose section or role does not permit it.

    Args:
        cases: scored patients.
        folder: folder of their dataset.
        score: `validation`, of a suite that chooses: recipe patients only; `test`: any others.
        what: cell or table, for the message.
    """
    known = recipe_patients(folder)
    if not known:
        raise ValueError(f"Expected the recipe patients of {folder} in {FILE.name}, found none; add them there.")
    wrong = sorted({case for case in cases if (case in known) != (score == "validation")})
    if not wrong:
        return
    if score == "validation":
        message = f"Expected only recipe patients in {what}, which chooses on validation, found {', '.join(wrong)}"
        raise ValueError(f"{message}; {FILE.name} lists {', '.join(known)} of {folder}. Score other folds.")
    message = f"Expected no recipe patient in {what}, found {', '.join(wrong)}, on whom recipes are chosen"
    raise ValueError(f"{message} ({FILE.name}, {folder}). Leave them out.")

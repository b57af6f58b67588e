"""Collects demo runs with several seeds: Dice of every test patient for each method, and paired differences.

Run:  for seed in 0 1 2 3 4; do bash scripts/demo.sh runs/demo_$seed $seed; done
      python scripts/benchmark/demo_seeds.py runs/demo_*
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from cell_run import processor

from tskd_monai.evaluation.summary import class_means, finite_mean, read_metrics
from tskd_monai.files.json_files import read_json, write_json
from tskd_monai.training.record import package_versions

RESULT = Path(__file__).with_name("results") / "demo" / "seeds.json"
METHODS = ("teacher", "student", "scratch", "self_trained")
BASELINES = ("scratch", "self_trained")
DRAWS = 10_000


def dice_of_run(folder: Path) -> dict[str, Any]:
    """Returns the seed of a demo run and the mean Dice over classes of each test patient, by method."""
    metrics = {method: read_metrics(folder / f"predictions_{method}" / "metrics.csv") for method in METHODS}
    seed = read_json(folder / "student" / "record.json")["settings"]["seed"]
    dice = {
        method: {case: round(value, 4) for case, value in class_means(rows).items()} for method, rows in metrics.items()
    }
    return {"seed": seed, "dice": dice}


def difference(runs: Sequence[dict[str, Any]], baseline: str) -> dict[str, Any]:
    """Returns the student's Dice minus a baseline's, paired by patient, over all runs.

    The interval is a percentile bootstrap that resamples seeds first and then the patients of each; every run must have
    the same number of patients.
    """
    values = np.array([[run["dice"]["student"][case] - run["dice"][baseline][case] for case in run["dice"]["student"]]
                       for run in runs])  # fmt: skip
    generator = np.random.default_rng(0)
    seeds, patients = values.shape
    means = []
    for _ in range(DRAWS):
        drawn = generator.integers(seeds, size=seeds)
        means.append(np.mean([values[seed][generator.integers(patients, size=patients)].mean() for seed in drawn]))
    low, high = np.percentile(means, [2.5, 97.5])
    return {
        "mean": round(float(values.mean()), 3),
        "interval_95": [round(float(low), 3), round(float(high), 3)],
        "higher": int((values > 0).sum()),
        "patients": int(values.size),
    }


def table(runs: Sequence[dict[str, Any]]) -> str:
    """Returns the mean Dice of each seed and method as Markdown."""
    lines = ["| seed | teacher | distilled student | from scratch | self-training |", "|---|---|---|---|---|"]
    for run in runs:
        means = [f"{finite_mean(run['dice'][method].values()):.3f}" for method in METHODS]
        lines.append(f"| {run['seed']} | {' | '.join(means)} |")
    overall = [finite_mean(value for run in runs for value in run["dice"][method].values()) for method in METHODS]
    return "\n".join([*lines, f"| mean | {' | '.join(f'{value:.3f}' for value in overall)} |"])


def main() -> None:
    """Reads the folders of demo runs, writes the result and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="output folders of scripts/demo.sh, one per seed")
    args = parser.parse_args()
    runs = sorted((dice_of_run(folder) for folder in args.folders), key=lambda run: run["seed"])
    differences = {baseline: difference(runs, baseline) for baseline in BASELINES}
    machine = {"processor": processor(), "threads": 1}
    write_json(RESULT, {"runs": runs, "student_minus": differences, "machine": machine, "versions": package_versions()})
    print(table(runs))
    print(differences)


if __name__ == "__main__":
    main()

"""Collects demo runs with several seeds: Dice of every test patient for each method, and paired differences.

Run:  for seed in 0 1 2 3 4; do bash scripts/demo.sh runs/demo_$seed $seed; done
      python scripts/benchmark/demo_seeds.py seeds runs/demo_*
With runs of several encoders, methods have the encoder's name; the differences are those of the first run's student:
      python scripts/benchmark/demo_seeds.py teachers runs/lite_medsam_* runs/random_*
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from cell_run import processor
from scipy import stats

from tskd_monai.evaluation.summary import class_means, finite_mean, read_metrics
from tskd_monai.files.json_files import read_json, write_json
from tskd_monai.training.record import package_versions

RESULTS = Path(__file__).with_name("results") / "demo"
TAUGHT = {"teacher": "teacher", "student": "distilled student"}
BASELINES = {"scratch": "from scratch", "self_trained": "self-training"}

Run = dict[str, Any]


def encoder_of_run(folder: Path) -> str:
    """Returns the name of a demo run's encoder, with `random` for random weights."""
    spec = read_json(folder / "teacher" / "teacher.json")["spec"]
    return f"{spec['encoder']} random" if spec["encoder_weights"] == "random" else str(spec["encoder"])


def dice_of_run(folder: Path, prefix: str = "") -> Run:
    """Returns the seed of a demo run and the mean Dice over classes of each test patient, by method."""
    dice = {}
    for method, title in {**TAUGHT, **BASELINES}.items():
        path = folder / f"predictions_{method}" / "metrics.csv"
        if path.is_file():
            means = class_means(read_metrics(path)).items()
            dice[prefix * (method in TAUGHT) + title] = {case: round(value, 4) for case, value in means}
    return {"seed": read_json(folder / "student" / "record.json")["settings"]["seed"], "dice": dice}


def by_seed(runs: Iterable[Run]) -> list[Run]:
    """Returns one run for each seed with the methods of all its runs, from scratch and self-training last."""
    seeds: dict[int, dict[str, Any]] = {}
    for run in runs:
        seeds.setdefault(run["seed"], {}).update(run["dice"])
    last = BASELINES.values()
    ordered = {seed: dict(sorted(dice.items(), key=lambda item: item[0] in last)) for seed, dice in seeds.items()}
    return [{"seed": seed, "dice": ordered[seed]} for seed in sorted(ordered)]


def difference(runs: Sequence[Run], method: str, other: str) -> dict[str, Any]:
    """Returns the Dice of a method minus another's, paired by patient, over all runs.

    The interval is Student's t over the means of the seeds, each of which has other patients and another training.
    """
    pairs = [(run["dice"][method], run["dice"][other]) for run in runs]
    values = np.array([[ours[case] - theirs[case] for case in ours] for ours, theirs in pairs])
    means = values.mean(axis=1)
    low, high = stats.t.interval(0.95, len(means) - 1, means.mean(), stats.sem(means))
    return {
        "mean": round(float(values.mean()), 3),
        "interval_95": [round(float(low), 3), round(float(high), 3)],
        "higher": int((values > 0).sum()),
        "patients": int(values.size),
    }


def differences(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """Returns the differences of the first distilled student to every other student."""
    first, *others = (method for method in runs[0]["dice"] if not method.endswith("teacher"))
    return {other: difference(runs, first, other) for other in others}


def table(runs: Sequence[Run]) -> str:
    """Returns the mean Dice of each seed and method as Markdown."""
    methods = list(runs[0]["dice"])
    lines = [f"| seed | {' | '.join(methods)} |", "|---" * (len(methods) + 1) + "|"]
    for run in runs:
        means = [f"{finite_mean(run['dice'][method].values()):.3f}" for method in methods]
        lines.append(f"| {run['seed']} | {' | '.join(means)} |")
    overall = [finite_mean(value for run in runs for value in run["dice"][method].values()) for method in methods]
    return "\n".join([*lines, f"| mean | {' | '.join(f'{value:.3f}' for value in overall)} |"])


def main() -> None:
    """Reads the folders of demo runs, writes the result and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", help="name of the file in scripts/benchmark/results/demo, such as seeds")
    parser.add_argument("folders", type=Path, nargs="+", help="output folders of tskd demo")
    args = parser.parse_args()
    names = [encoder_of_run(folder) for folder in args.folders]
    prefixes = [f"{name}: " if len(set(names)) > 1 else "" for name in names]
    runs = by_seed(map(dice_of_run, args.folders, prefixes))
    content = {"runs": runs, "student_minus": differences(runs), "machine": {"processor": processor(), "threads": 1}}
    write_json(RESULTS / f"{args.result}.json", {**content, "versions": package_versions()})
    print(table(runs), *content["student_minus"].items(), sep="\n")


if __name__ == "__main__":
    main()

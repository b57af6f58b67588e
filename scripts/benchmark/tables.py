"""Writes a suite's table from its results into the document that shows it, between its two markers.

The unit is the patient: seeds are averaged within a patient first, intervals are bootstrapped over patients.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml
from cells import FOLDER, RESULTS, load_cells, suite_names

from tskd_monai.data.atomic import atomic_path, read_json
from tskd_monai.evaluation.comparison import compare
from tskd_monai.evaluation.intervals import bootstrap_mean_interval
from tskd_monai.evaluation.summary import class_means, finite_mean

ROOT = FOLDER.parents[1]
Result = Mapping[str, Any]


def load_results(suite: str) -> list[Result]:
    """Returns the results of a suite's cells that there are.

    Raises:
        ValueError: when one was made with other settings than the suite has now.
    """
    results = []
    for cell in load_cells(suite):
        if not cell.result_file.is_file():
            continue
        result = read_json(cell.result_file)
        if result["config_hash"] != cell.config_hash:
            raise ValueError(
                f"{cell.result_file.name} was made with other settings than {suite}.yaml has: run it again."
            )
        results.append(result)
    return results


def patient_means(results: Sequence[Result], metric: str) -> dict[str, float]:
    """Returns patient -> mean over seeds of the mean of `metric` over the classes; undefined ones are left out."""
    values: dict[str, list[float]] = {}
    for result in results:
        rows = [{**row, metric: math.nan if row[metric] is None else row[metric]} for row in result["rows"]]
        for case, value in class_means(rows, metric).items():
            values.setdefault(case, []).append(value)
    return {case: finite_mean(of_case) for case, of_case in values.items()}


def dataset_table(results: Sequence[Result], reference: str, costs: Mapping[str, Any], unit: str = "mm") -> list[str]:
    """Returns the lines of one dataset's table, a method each, with the reference's lead over it."""
    methods = {
        name: [r for r in results if r["method"] == name] for name in dict.fromkeys(r["method"] for r in results)
    }
    ours = patient_means(methods[reference], "dice")
    lines = [
        f"| method | Dice (95 % interval) | HD95 ({unit}) | missed | {reference} minus it (95 % interval) "
        f"| trained parameters |{' time a step | peak memory |' if costs else ''}",
        f"|{'---|' * (8 if costs else 6)}",
    ]
    for name, of_method in methods.items():
        dice = patient_means(of_method, "dice")
        distances = [value for value in patient_means(of_method, "hd95_mm").values() if not math.isnan(value)]
        missed = sum(row["missed"] for result in of_method for row in result["rows"])
        cells = [f"`{name}`", _with_interval(list(dice.values())), f"{fmean(distances):.1f}", str(missed)]
        cells.append("" if name == reference else _difference(ours, dice))
        cells.append(f"{of_method[0]['training']['trainable_parameters']:,}")
        if costs:
            cells += _cost(costs[name], costs[reference])
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _with_interval(values: Sequence[float]) -> str:
    low, high = bootstrap_mean_interval(values)
    return f"{fmean(values):.3f} ({low:.3f} to {high:.3f})"


def _difference(first: Mapping[str, float], second: Mapping[str, float]) -> str:
    both = sorted(first.keys() & second.keys())  # while a suite is running, folds are missing here and there
    difference = compare({case: first[case] for case in both}, {case: second[case] for case in both})
    low, high = difference.interval_95
    return f"{difference.mean:+.3f} ({low:+.3f} to {high:+.3f})"


def _cost(cost: Mapping[str, Any], reference: Mapping[str, Any]) -> list[str]:
    return [f"{cost['seconds_per_step'] / reference['seconds_per_step']:.2f}x", f"{cost['peak_mb']:,.0f} MB"]


def is_shown(suite: str) -> bool:
    """Whether a document shows this suite's table."""
    return "document" in yaml.safe_load((FOLDER / "suites" / f"{suite}.yaml").read_text())


def suite_text(suite: str) -> str:
    """Returns a suite's tables, one per dataset, with how many patients and labels stand behind each."""
    content = yaml.safe_load((FOLDER / "suites" / f"{suite}.yaml").read_text())
    results = load_results(suite)
    cost_file = RESULTS / suite / "cost.json"
    costs = read_json(cost_file)["methods"] if cost_file.is_file() else {}
    lines: list[str] = []
    for dataset, described in content["datasets"].items():
        unit = described.get("unit", "mm")
        of_dataset = [result for result in results if result["dataset"] == dataset]
        if not any(result["method"] == content["reference"] for result in of_dataset):
            continue
        lines += [_caption(dataset, of_dataset), "", *dataset_table(of_dataset, content["reference"], costs, unit), ""]
    return "\n".join(lines)


def _caption(dataset: str, results: Sequence[Result]) -> str:
    patients = len({row["case"] for result in results for row in result["rows"]})
    trainings = len({(result["fold"], result["seed"]) for result in results})
    first = results[0]
    settings = first["settings"]
    return (
        f"**{dataset}**, {first['labelled']['slices'] or 'all'} labelled slices, {patients} {first['score']} patients, "
        f"{trainings} trainings a method ({'folds by patient' if first['fold'] is not None else 'seeds'}), "
        f"{settings['epoch_length'] * settings['max_epochs']} steps of {settings['batch_size']}:"
    )


def replace_block(text: str, name: str, block: str) -> str:
    """Returns a document in which the lines between the two markers of `name` are the block.

    Raises:
        ValueError: when a marker is missing.
    """
    start, end = f"<!-- benchmark {name} -->", f"<!-- end of benchmark {name} -->"
    if start not in text or end not in text:
        raise ValueError(f"Expected the markers {start} and {end} in the document, found not both.")
    return f"{text.split(start)[0]}{start}\n{block.strip()}\n{end}{text.split(end)[1]}"


def document_of(suite: str) -> Path:
    """Returns the document that shows a suite's table."""
    content = yaml.safe_load((FOLDER / "suites" / f"{suite}.yaml").read_text())
    return ROOT / str(content["document"])


def main() -> None:
    """Reads the command line and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suite", choices=suite_names())
    suite = parser.parse_args().suite
    if not is_shown(suite):
        parser.error(f"no document shows {suite}; its numbers are in results/{suite}")
    path = document_of(suite)
    with atomic_path(path) as temporary:
        temporary.write_text(replace_block(path.read_text(), suite, suite_text(suite)))


if __name__ == "__main__":
    main()

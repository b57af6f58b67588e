"""Writes a suite's tables and figures from its results into the document that shows them, between its two markers."""

from __future__ import annotations

import argparse
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from cells import COSTS, FOLDER, load_cells, read_suite, suite_names
from comparisons import Patients, Result, gap_closed, holm, paired, patient_means, sign_flip_p
from figures import patients_figure, picture, write_figure
from results import read_results

from tskd_monai.evaluation.intervals import bootstrap_mean_interval
from tskd_monai.evaluation.metrics import NSD_TOLERANCE_MM
from tskd_monai.files.atomic import atomic_path
from tskd_monai.files.json_files import read_json

ROOT = FOLDER.parents[1]
SMALLEST_GAP = 0.02  # below, or if its interval reaches 0, there is nothing to distil


def load_results(suite: str) -> list[Result]:
    """Returns the available results of the suite's cells.

    Raises:
        ValueError: if one was run with settings that differ from the suite's.
    """
    found = read_results(suite)
    made = [cell for cell in load_cells(suite) if cell.name in found]
    for cell in made:
        if found[cell.name]["config_hash"] != cell.config_hash:
            raise ValueError(f"{cell.name} was run with other settings than {suite}.yaml has: run it again.")
    return [found[cell.name] for cell in made]


def shown_results(suite: str) -> dict[str, list[Result]]:
    """Returns the results by dataset, of the datasets for which the suite's reference method has one."""
    results, content = load_results(suite), read_suite(suite)
    of_datasets = {name: [result for result in results if result["dataset"] == name] for name in content["datasets"]}
    return {
        name: found
        for name, found in of_datasets.items()
        if any(result["method"] == content["reference"] for result in found)
    }


def without_patients(results: Sequence[Result], cases: Collection[str]) -> list[Result]:
    """Returns the results without the rows of these patients."""
    return [{**result, "rows": [row for row in result["rows"] if row["case"] not in cases]} for result in results]


def accuracy_table(results: Sequence[Result], reference: str, dataset: Mapping[str, Any]) -> list[str]:
    """Returns the lines of a table with the accuracy of each method and the reference's lead over it.

    Args:
        results: results of one dataset.
        reference: method that the others are compared with.
        dataset: description in the suite: `unit` of distances ("mm"), and whether only the `largest_component` of each
            structure was kept (False).
    """
    unit = dataset.get("unit", "mm")
    components = "largest component" if dataset.get("largest_component") else "without largest-component filter"
    heads = ["method", "Dice (95 % interval)", f"Dice: {reference} minus it", f"NSD at {NSD_TOLERANCE_MM:g} {unit}"]
    heads += [f"NSD: {reference} minus it", f"HD95 ({unit}), {components}", "missed"]
    methods = _by_method(results)
    rows = []
    for name, of_method in methods.items():
        distances = [value for value in patient_means(of_method, "hd95_mm").values() if not math.isnan(value)]
        row = [f"`{name}`"]
        for metric, shown in (("dice", _with_interval), ("nsd", _mean)):
            ours, theirs = patient_means(methods[reference], metric), patient_means(of_method, metric)
            row += [shown(list(theirs.values())), "" if name == reference else _difference(ours, theirs)]
        missed = sum(row["missed"] for result in of_method for row in result["rows"])
        rows.append([*row, f"{fmean(distances):.1f}", str(missed)])
    return _table(heads, rows)


def cost_table(results: Sequence[Result], reference: str, costs: Mapping[str, Any]) -> list[str]:
    """Returns the lines of a table with the size of each method's network and the cost of its training run.

    Args:
        results: results of one dataset.
        reference: method whose time per step is the unit of the others'.
        costs: `seconds_per_step` and `peak_mb` by method, or empty.
    """
    counted = "trainable_parameters" if _has_trainable_parameters(results) else "parameters"
    heads = ["method", counted.replace("trainable_", "trained ")]
    heads += ["time a step", "peak memory"] if costs else []
    is_timed = any(map(_has_cpu_seconds, results))
    heads += ["core-minutes, all stages"] if is_timed else []
    rows = []
    for name, of_method in _by_method(results).items():
        row = [f"`{name}`", f"{of_method[0]['stages'][-1]['results'][counted]:,}"]
        if costs:
            row += _cost(costs[name], costs[reference])
        if is_timed:
            timed = [_core_minutes(result) for result in of_method if _has_cpu_seconds(result)]
            row.append(f"{fmean(timed):.1f}" if timed else "with a GPU")
        rows.append(row)
    return _table(heads, rows)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows)]


def _by_method(results: Sequence[Result]) -> dict[str, list[Result]]:
    names = dict.fromkeys(result["method"] for result in results)
    return {name: [result for result in results if result["method"] == name] for name in names}


def _has_trainable_parameters(results: Sequence[Result]) -> bool:
    return all("trainable_parameters" in result["stages"][-1]["results"] for result in results)


def _has_cpu_seconds(result: Result) -> bool:
    """Returns whether everything ran on the CPU and its time was recorded."""
    stages = result["stages"]
    return all("cpu_seconds" in stage and not stage.get("gpu") for stage in stages) and not result["machine"].get("gpu")


def _core_minutes(result: Result) -> float:
    return float(sum(stage["cpu_seconds"] for stage in result["stages"]) / 60)


def _mean(values: Sequence[float]) -> str:
    return f"{fmean(values):.3f}"


def _with_interval(values: Sequence[float]) -> str:
    return f"{_mean(values)} {_interval(bootstrap_mean_interval(values), '')}"


def _interval(bounds: tuple[float, float], sign: str = "+") -> str:
    return f"({bounds[0]:{sign}.3f} to {bounds[1]:{sign}.3f})"


def _difference(first: Patients, second: Patients) -> str:
    if not first.keys() & second.keys():  # a suite still running
        return "no patient yet"
    difference = paired(first, second)
    return f"{difference.mean:+.3f} {_interval(difference.interval_95)}"


def _cost(cost: Mapping[str, Any], reference: Mapping[str, Any]) -> list[str]:
    return [f"{cost['seconds_per_step'] / reference['seconds_per_step']:.2f}x", f"{cost['peak_mb']:,.0f} MB"]


def findings(results: Sequence[Result], content: Mapping[str, Any]) -> list[str]:
    """Returns sentences on the suite's primary comparisons (Holm) and on the fraction of the teacher's lead kept.

    Args:
        results: results of one dataset.
        content: content of the suite: `reference`, `primary` (methods that the reference is compared with), `gap`
            (names of the methods `teacher` and `scratch`), `pairs` (pairs of methods whose difference is shown).
    """
    methods = _by_method(results)
    dice, nsd = (
        {name: patient_means(of_method, metric) for name, of_method in methods.items()} for metric in ("dice", "nsd")
    )
    reference, lines = content["reference"], []
    primary = [name for name in content.get("primary", []) if dice[reference].keys() & dice.get(name, {}).keys()]
    if primary:
        others = [name for name in methods if name != reference]
        lines.append(
            f"`{reference}` against its primary comparisons, sign-flip test by patient, Holm over these "
            f"{len(primary)}: Dice {_holm_text(dice, reference, primary)}; "
            f"NSD {_holm_text(nsd, reference, primary)}. Dice, Holm over all {len(others)} rows: "
            f"{_holm_text(dice, reference, others)}."
        )
    pairs = [pair for pair in content.get("pairs", []) if set(pair) <= dice.keys()]
    if pairs:
        pairwise = [f"`{first}` minus `{second}` {_difference(dice[first], dice[second])}" for first, second in pairs]
        lines.append(f"Dice: {', '.join(pairwise)}.")
    gap = content.get("gap")
    if gap and set.intersection(*(set(dice.get(name, {})) for name in (reference, *gap.values()))):
        lines.append(_gap_sentence(dice, reference, gap))
    return lines


def _holm_text(patients: Mapping[str, Patients], reference: str, others: Sequence[str]) -> str:
    p_values = {name: sign_flip_p(patients[reference], patients[name]) for name in others}
    return ", ".join(f"`{name}` p {_p_text(p)}" for name, p in holm(p_values).items())


def _p_text(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def _gap_sentence(patients: Mapping[str, Patients], reference: str, gap: Mapping[str, str]) -> str:
    closed = gap_closed(patients[reference], patients[gap["scratch"]], patients[gap["teacher"]])
    lead = f"`{gap['teacher']}` leads `{gap['scratch']}` by {closed.gap:+.3f} {_interval(closed.gap_interval)}"
    both = patients[reference].keys() & patients[gap["teacher"]].keys()
    kept = sum(patients[reference][case] for case in both) / sum(patients[gap["teacher"]][case] for case in both)
    lead = f"`{reference}` keeps {kept:.1%} of the Dice of `{gap['teacher']}`. {lead}"
    if closed.gap < SMALLEST_GAP or closed.gap_interval[0] <= 0:
        return f"{lead}: nothing to distil is shown here, and this budget counts neither for nor against."
    low, high = closed.fraction_interval
    return f"{lead}; `{reference}` closes {closed.fraction:.0%} ({low:.0%} to {high:.0%}) of it."


def is_shown(suite: str) -> bool:
    """Returns whether a document shows this suite's table."""
    return "document" in read_suite(suite)


def suite_text(suite: str, shown: Mapping[str, Sequence[Result]]) -> str:
    """Returns a suite's tables of `shown_results`, one per dataset, with the numbers of patients and labels."""
    content = read_suite(suite)
    cost_file = COSTS / f"{suite}.json"
    costs = read_json(cost_file)["methods"] if cost_file.is_file() else {}
    lines: list[str] = []
    for dataset, of_dataset in shown.items():
        described, reference = content["datasets"][dataset], content["reference"]
        recipe_patients = described.get("recipe_patients", [])
        unseen = without_patients(of_dataset, recipe_patients)
        found = [line for sentence in findings(unseen, content) for line in (sentence, "")]
        whole = [_caption(dataset, of_dataset), "", *accuracy_table(of_dataset, reference, described), ""]
        if recipe_patients:
            lines += [_primary_caption(dataset, unseen, recipe_patients), ""]
            lines += [*accuracy_table(unseen, reference, described), "", *found, *whole]
        else:
            lines += [*whole, *found]
        lines += [*cost_table(of_dataset, reference, costs), ""]
        if "figure" in content:
            lines += [picture(suite, dataset), ""]
    return "\n".join(lines)


def _primary_caption(dataset: str, results: Sequence[Result], recipe_patients: Sequence[str]) -> str:
    patients = len({row["case"] for result in results for row in result["rows"]})
    return (
        f"**{dataset}, primary analysis**, {patients} {results[0]['score']} patients: without "
        f"{', '.join(recipe_patients)}, on whom the recipe was chosen:"
    )


def _caption(dataset: str, results: Sequence[Result]) -> str:
    patients = len({row["case"] for result in results for row in result["rows"]})
    trainings = len({(result["fold"], result["seed"]) for result in results})
    first = results[0]
    caption = (
        f"**{dataset}**, {first['labelled']['slices'] or 'all'} labelled slices, {patients} {first['score']} patients, "
        f"{trainings} training runs a method ({'folds by patient' if first['fold'] is not None else 'seeds'})"
    )
    gpus = {result.get("machine", {}).get("gpu") for result in results}
    if len(gpus) == 1 and (gpu := gpus.pop()):
        caption += f", {gpu}"
    steps = {_steps(result) for result in results}
    return f"{caption}, {steps.pop()}:" if len(steps) == 1 else f"{caption}:"


def _steps(result: Result) -> str:
    settings = result["stages"][-1]["settings"]
    return f"{settings['epoch_length'] * settings['max_epochs']} steps of {settings['batch_size']}"


def replace_block(text: str, name: str, block: str) -> str:
    """Returns a document with the lines between the two markers of `name` replaced by the block.

    Raises:
        ValueError: if a marker is missing.
    """
    start, end = f"<!-- benchmark {name} -->", f"<!-- end of benchmark {name} -->"
    if start not in text or end not in text:
        raise ValueError(f"Expected the markers {start} and {end} in the document, found not both.")
    return f"{text.split(start)[0]}{start}\n{block.strip()}\n{end}{text.split(end)[1]}"


def document_of(suite: str) -> Path:
    """Returns the document that shows a suite's table."""
    return ROOT / str(read_suite(suite)["document"])


def main() -> None:
    """Reads the command line and writes the tables and figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suite", choices=suite_names())
    suite = parser.parse_args().suite
    if not is_shown(suite):
        parser.error(f"no document shows {suite}; its numbers are in results/{suite}.jsonl")
    path, shown = document_of(suite), shown_results(suite)
    with atomic_path(path) as temporary:
        temporary.write_text(replace_block(path.read_text(), suite, suite_text(suite, shown)))
    if methods := read_suite(suite).get("figure"):
        for dataset, of_dataset in shown.items():
            write_figure(path.parent, suite, dataset, patients_figure(of_dataset, methods))


if __name__ == "__main__":
    main()

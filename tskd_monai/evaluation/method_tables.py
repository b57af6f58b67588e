"""Markdown tables and sentences that compare methods on the same patients: intervals, Holm's p, the gap closed."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from statistics import fmean
from typing import Any

from tskd_monai.evaluation.intervals import bootstrap_mean_interval
from tskd_monai.evaluation.method_results import Result, has_seeds, paired, patient_means, seeded
from tskd_monai.evaluation.metrics import NSD_TOLERANCE_MM
from tskd_monai.evaluation.significance import Patients, gap_closed, holm, sign_flip_p

SMALLEST_GAP = 0.02  # below, or if its interval reaches 0, there is nothing to distil


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
    methods = by_method(results)
    rows = []
    for name, of_method in methods.items():
        distances = [value for value in patient_means(of_method, "hd95_mm").values() if not math.isnan(value)]
        row = [f"`{name}`"]
        for metric, shown in (("dice", _with_interval), ("nsd", _mean)):
            difference = "" if name == reference else _difference(methods[reference], of_method, metric)
            row += [shown(list(patient_means(of_method, metric).values())), difference]
        missed = sum(row["missed"] for result in of_method for row in result["rows"])
        rows.append([*row, f"{fmean(distances):.1f}" if distances else "none", str(missed)])
    return markdown_table(heads, rows)


def findings(results: Sequence[Result], content: Mapping[str, Any]) -> list[str]:
    """Returns sentences on the suite's primary comparisons (Holm) and on the fraction of the teacher's lead kept.

    Args:
        results: results of one dataset.
        content: content of the suite: `reference`, `primary` (methods that the reference is compared with), `gap`
            (names of the methods `teacher` and `scratch`), `pairs` (pairs of methods whose difference is shown).
    """
    methods = by_method(results)
    dice, nsd = (
        {name: patient_means(of_method, metric) for name, of_method in methods.items()} for metric in ("dice", "nsd")
    )
    reference, lines = content["reference"], []
    primary = [name for name in content.get("primary", []) if dice[reference].keys() & dice.get(name, {}).keys()]
    if primary and has_seeds(results):
        lines.append(_primary_family(methods, reference, primary))
    elif primary:
        others = [name for name in methods if name != reference]
        lines.append(
            f"`{reference}` against its primary comparisons, sign-flip test by patient, Holm over these "
            f"{len(primary)}: Dice {_holm_text(dice, reference, primary)}; "
            f"NSD {_holm_text(nsd, reference, primary)}. Dice, Holm over all {len(others)} rows: "
            f"{_holm_text(dice, reference, others)}."
        )
    pairs = [pair for pair in content.get("pairs", []) if set(pair) <= dice.keys()]
    if pairs:
        pairwise = [
            f"`{first}` minus `{second}` {_difference(methods[first], methods[second], 'dice')}"
            for first, second in pairs
        ]
        lines.append(f"Dice: {', '.join(pairwise)}.")
    gap = content.get("gap")
    if gap and set.intersection(*(set(dice.get(name, {})) for name in (reference, *gap.values()))):
        lines.append(_gap_sentence(dice, reference, gap))
    return lines


def _primary_family(methods: Mapping[str, Sequence[Result]], reference: str, primary: Sequence[str]) -> str:
    """Returns the primary comparisons in Dice and NSD with Holm's p over all of them."""
    names = {"dice": "Dice", "nsd": "NSD"}
    compared = {
        (name, metric): seeded(methods[reference], methods[name], metric) for name in primary for metric in names
    }
    adjusted = holm({f"{name} {metric}": found.p for (name, metric), found in compared.items()})
    sentences = [
        f"minus `{name}` {names[metric]} {found.mean:+.3f} {_interval(found.interval_95)}, "
        f"p {_p_text(adjusted[f'{name} {metric}'])}"
        for (name, metric), found in compared.items()
    ]
    return (
        f"`{reference}`, seeds and patients resampled, Holm over these {len(compared)}: {'; '.join(sentences)}. "
        "All other comparisons are secondary."
    )


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


def caption(dataset: str, results: Sequence[Result]) -> str:
    """Returns the caption of a dataset's tables: patients, labels, training runs and how they were measured."""
    patients = len({row["case"] for result in results for row in result["rows"]})
    seeds = ("fold", "seed", "teacher_seed", "student_seed")
    trainings = len({tuple(result.get(name) for name in seeds) for result in results})
    first = results[0]
    text = (
        f"**{dataset}**, {first['labelled']['slices'] or 'all'} labelled slices, {patients} {first['score']} patients, "
        f"{trainings} training runs a method ({'folds by patient' if first['fold'] is not None else 'seeds'})"
    )
    gpus = {result.get("machine", {}).get("gpu") for result in results}
    if len(gpus) == 1 and (gpu := gpus.pop()):
        text += f", {gpu}"
    if has_seeds(results):
        return f"{text}{_protocol_text(results)}:"
    steps = {_steps(result) for result in results}
    return f"{text}, {steps.pop()}:" if len(steps) == 1 else f"{text}:"


def _protocol_text(results: Sequence[Result]) -> str:
    """Returns what a caption says of the second protocol."""
    read = [result["readings"] for result in results if "readings" in result]
    if not read:
        return ", float32"
    times = "once" if max(read) == 1 else f"up to {max(read)} times"
    return f", float32, without the recipe patients, `test` read {times}"


def _steps(result: Result) -> str:
    settings = result["stages"][-1]["settings"]
    return f"{settings['epoch_length'] * settings['max_epochs']} steps of {settings['batch_size']}"


def by_method(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Returns method -> its results, in the order in which they come."""
    names = dict.fromkeys(result["method"] for result in results)
    return {name: [result for result in results if result["method"] == name] for name in names}


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns the lines of a table with these heads and rows."""
    return [f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows)]


def _mean(values: Sequence[float]) -> str:
    return f"{fmean(values):.3f}"


def _with_interval(values: Sequence[float]) -> str:
    return f"{_mean(values)} {_interval(bootstrap_mean_interval(values), '')}"


def _interval(bounds: tuple[float, float], sign: str = "+") -> str:
    return f"({bounds[0]:{sign}.3f} to {bounds[1]:{sign}.3f})"


def _difference(first: Sequence[Result], second: Sequence[Result], metric: str) -> str:
    ours, theirs = patient_means(first, metric), patient_means(second, metric)
    if not ours.keys() & theirs.keys():  # a suite still running
        return "no patient yet"
    if has_seeds([*first, *second]):
        of_seeds = seeded(first, second, metric)
        return f"{of_seeds.mean:+.3f} {_interval(of_seeds.interval_95)}"
    difference = paired(ours, theirs)
    return f"{difference.mean:+.3f} {_interval(difference.interval_95)}"

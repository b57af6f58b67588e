"""Writes a suite's tables and figures from its results into the document that shows them, between its two markers.

With --from-predictions, the suite's kept predictions are scored again first, by the present metrics and
post-processing; a file that is not the one that was kept is refused.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from cells import COSTS, FOLDER, SECOND, load_cells, read_suite, suite_names
from figures import patients_figure, picture, write_figure
from recipe import check_scored, recipe_patients
from results import read_results, save_result

from tskd_monai.evaluation.cost_table import cost_table
from tskd_monai.evaluation.method_results import Result, kept_numbers
from tskd_monai.evaluation.method_tables import accuracy_table, caption, findings, without_patients
from tskd_monai.files.atomic import atomic_path
from tskd_monai.files.json_files import read_json

ROOT = FOLDER.parents[1]


def load_results(suite: str) -> list[Result]:
    """Returns the available results of the suite's cells.

    Raises:
        ValueError: if one was run with settings that differ from the suite's, or has patients that it must not have.
    """
    found = read_results(suite)
    made = [cell for cell in load_cells(suite) if cell.name in found]
    for cell in made:
        if found[cell.name]["config_hash"] != cell.config_hash:
            raise ValueError(f"{cell.name} was run with other settings than {suite}.yaml has: run it again.")
        if cell.score == "validation" or cell.protocol >= SECOND:
            cases = (row["case"] for row in found[cell.name]["rows"])
            check_scored(cases, cell.split.folder, cell.score, f"results/{suite}.jsonl, {cell.name}")
        if cell.protocol >= SECOND and found[cell.name]["largest_component"] != cell.largest_component:
            raise ValueError(f"{cell.name} was scored with other post-processing: run tables.py --from-predictions.")
    return [found[cell.name] for cell in made]


def score_again(suite: str) -> None:
    """Scores the kept predictions of a suite's results by the present metrics and post-processing, and saves the rows.

    Raises:
        ValueError: if a result has no predictions, or one of them is not the file that was kept.
    """
    from predictions import score_predictions

    found = read_results(suite)
    scored = []
    for cell in (cell for cell in load_cells(suite) if cell.name in found):
        result = found[cell.name]
        if "predictions" not in result:
            raise ValueError(f"Expected kept predictions in the result of {cell.name}, found none: run it again.")
        if result["config_hash"] != cell.config_hash:
            raise ValueError(f"{cell.name} was run with other settings than {suite}.yaml has: run it again.")
        rows = [kept_numbers(row) for row in score_predictions(cell, result["predictions"])]
        scored.append({**result, "largest_component": cell.largest_component, "rows": rows})
    for result in scored:  # only once all of them are in order
        save_result(result)


def shown_results(suite: str) -> dict[str, list[Result]]:
    """Returns the results by dataset, of the datasets for which the suite's reference method has one."""
    results, content = load_results(suite), read_suite(suite)
    of_datasets = {name: [result for result in results if result["dataset"] == name] for name in content["datasets"]}
    return {
        name: found
        for name, found in of_datasets.items()
        if any(result["method"] == content["reference"] for result in found)
    }


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
        scored = {row["case"] for result in of_dataset for row in result["rows"]}
        seen = [case for case in recipe_patients(described["folder"], suite) if case in scored]
        unseen = without_patients(of_dataset, seen) if content["score"] == "test" else of_dataset
        found = [line for sentence in findings(unseen, content) for line in (sentence, "")]
        whole = [caption(dataset, of_dataset), "", *accuracy_table(of_dataset, reference, described), ""]
        if seen and content["score"] == "test":
            lines += [_primary_caption(dataset, unseen, seen), ""]
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", choices=suite_names())
    parser.add_argument("--from-predictions", type=Path, metavar="FOLDER", help="score the kept predictions again")
    args = parser.parse_args()
    suite = args.suite
    if args.from_predictions:
        os.environ["TSKD_PREDICTIONS"] = str(args.from_predictions.resolve())
        try:
            score_again(suite)
        except (FileNotFoundError, ValueError) as error:
            parser.error(str(error))
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

"""The figures of a suite: every patient's Dice for the methods that its `figure` names, one figure per dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tskd_monai.evaluation.method_results import Result, patient_means
from tskd_monai.evaluation.report.figures import Chart, strip_plot
from tskd_monai.files.atomic import atomic_path

SCHEMES = ("light", "dark")


def patients_figure(results: Sequence[Result], methods: Sequence[str]) -> Chart:
    """Returns the Dice of every patient, mean over classes and seeds, for every method that has results."""
    of_methods = {name: [result for result in results if result["method"] == name] for name in methods}
    return strip_plot({name: patient_means(found, "dice") for name, found in of_methods.items() if found})


def file_name(suite: str, dataset: str, scheme: str) -> str:
    """Returns the name of a figure's file, beside the document that shows it; `scheme` is the page's, light or dark."""
    return f"{suite}_{dataset}_{scheme}.png"


def picture(suite: str, dataset: str) -> str:
    """Returns the HTML that shows a figure in a document, in the colours of the page."""
    light, dark = (file_name(suite, dataset, scheme) for scheme in SCHEMES)
    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img src="{light}" width="640" alt="{dataset}: Dice of every patient, a row for each method, joined by '
        'lines"></picture>'
    )


def write_figure(folder: Path, suite: str, dataset: str, chart: Chart) -> None:
    """Writes both files of a figure into a folder."""
    for scheme, content in zip(SCHEMES, (chart.light, chart.dark), strict=True):
        with atomic_path(folder / file_name(suite, dataset, scheme)) as temporary:
            temporary.write_bytes(content)

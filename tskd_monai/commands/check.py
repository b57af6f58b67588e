"""Checks a dataset before hours are spent on it: its content, unusual cases, and what training would refuse.

tskd check mydata/ --labels liver=1,spleen=4
tskd check study/datalist.json --fold 0

DATA is a datalist, a folder with images/, labels/ and perhaps unlabelled/, or the folder of a Decathlon or nnU-Net
dataset. Every image and label is read. check.html has counts, grids, values, the volume of every class, unusual cases,
and thumbnails with the labels.

Exit code 0: nothing would be refused; 1: something would be, and the report lists it.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tskd_monai.commands.command_parser import LABELS_HELP, CommandParser, output_folder

if TYPE_CHECKING:
    from tskd_monai.data.planning.survey import Survey

PAGE = "check.html"
PRINTED = 8
"""Findings of each kind on the terminal; the report has all."""


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = CommandParser("check", __doc__)
    parser.add_argument("data", type=Path, help="a datalist, or a folder")
    parser.add_argument("--output-dir", type=output_folder, default=Path("check"), help="default: check/")
    parser.add_argument("--labels", help=LABELS_HELP)
    parser.add_argument("--fold", type=int, help="fold of the datalist's cross-validation")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Read the command line and every image, write the report and print a summary."""
    args = parse_arguments(argv)
    from tskd_monai.commands.bundle_command import LOG_FILE, sorted_messages
    from tskd_monai.commands.user_data import datalist_of
    from tskd_monai.evaluation.report.dataset_page import write_dataset_page

    warnings = _Warnings(logging.WARNING)
    with warnings.collected():
        datalist = datalist_of(args.data, args.output_dir, args.labels, lenient=True)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    with sorted_messages(args.output_dir / LOG_FILE, warnings):
        survey, thumbnails = survey_of(datalist, args.fold)
    write_dataset_page(args.output_dir / PAGE, survey, thumbnails, list(warnings.texts))
    print("\n".join(summary(survey, list(warnings.texts))))
    print(f"Report: {args.output_dir / PAGE}")
    return int(bool(survey.refused))


def survey_of(path: Path, fold: int | None) -> tuple[Survey, dict[str, bytes]]:
    """Return the survey of a dataset, and the thumbnail of each case by name.

    Raises:
        FileNotFoundError: when there is no datalist.
        ValueError: when the datalist as a whole is invalid, such as without labels.
    """
    from tskd_monai.commands.task_files import check_spacing
    from tskd_monai.data.datalist import load_datalist
    from tskd_monai.data.planning.fingerprint import ReadCase
    from tskd_monai.data.planning.rules import declared_labels
    from tskd_monai.data.planning.survey import Refusal, refusal, survey_dataset
    from tskd_monai.evaluation.report.dataset_sheet import thumbnail

    refused: list[Refusal] = []

    def refuse(section: str, entry: Any, error: Exception) -> None:
        refused.append(refusal(section, entry, error, source=path))

    datalist = load_datalist(path, fold, refuse)
    labels = {label.value: label.name for label in declared_labels(datalist)[1:]}
    thumbnails: dict[str, bytes] = {}

    def look(name: str, case: ReadCase) -> None:
        thumbnails[name] = thumbnail(case, labels)

    return survey_dataset(datalist, refused, look).refusing(check_spacing), thumbnails


def summary(survey: Survey, warnings: Sequence[str]) -> list[str]:
    """Return the lines that the terminal shows of a survey."""
    from tskd_monai.evaluation.report.dataset_page import headline
    from tskd_monai.evaluation.report.dataset_tables import plan_pairs, section_rows

    noun = "images" if survey.flat else "slices"
    lines = [f"{'':<12}{'cases':>7}{'images':>8}{f'labelled {noun}':>17}{'with a class':>14}"]
    for name, cases, images, labelled, shown in section_rows(survey):
        lines.append(f"{name:<12}{cases:>7}{images:>8}{labelled:>17}{shown:>14}")
    lines += [survey.description] if survey.description else []
    lines += _listed("Partly labelled:", survey.partly_labelled)
    lines += _listed("Would be refused:", [str(entry) for entry in survey.refused])
    lines += _listed(
        "Unlike the others:", [f"{name}: {'; '.join(texts)}" for name, texts in survey.unlike.texts.items()]
    )
    lines += _listed("The same image:", [", ".join(names) for names in survey.same_images])
    lines += _listed("The same label:", [", ".join(names) for names in survey.same_labels])
    lines += _listed("Warnings:", warnings)
    if survey.task is not None:
        plan = plan_pairs(survey.task)
        lines.append(
            f"Planned: {plan['Image size']} of {plan['Pixel spacing']}, {plan['Slices']}, {plan['Intensities']}"
        )
    return [*lines, headline(survey)]


def _listed(title: str, texts: Sequence[str]) -> list[str]:
    if not texts:
        return []
    more = [f"  and {len(texts) - PRINTED} more in the report"] if len(texts) > PRINTED else []
    return [title, *(f"  {text}" for text in texts[:PRINTED]), *more]


class _Warnings(logging.Handler):
    """Keeps the text of each warning once."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.texts: dict[str, None] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the text of a record."""
        self.texts.setdefault(record.getMessage())

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Keep the warnings of this project, instead of showing them."""
        own = logging.getLogger("tskd_monai")
        handlers, passed_on = own.handlers, own.propagate
        own.handlers, own.propagate = [self], False
        try:
            yield
        finally:
            own.handlers, own.propagate = handlers, passed_on

"""The table `qc.csv` of a run: verdict, reasons and predicted Dice of each case, the case to look at first on top."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tskd_monai.files.atomic import atomic_path
from tskd_monai.files.json_files import Fields
from tskd_monai.trust.verdict import NOT_ASSESSED

QUALITY_TABLE = "qc.csv"
QUALITY_FIELDS: Fields = {
    "verdict": (str,),
    "reasons": (list,),
    "risk": (float,),
    "distance": (float,),
    "predicted_dice": (dict,),
}
"""Fields of `verdict.as_record`."""


def write_quality_table(records: Sequence[Mapping[str, Any]], structures: Sequence[str], path: str | Path) -> None:
    """Writes the table.

    Args:
        records: records of the cases; one that failed before it was segmented is `not assessed`.
        structures: names of the structures.
        path: the file.
    """
    numbers = [f"{name}: {value}" for name in structures for value in ("predicted Dice", "low", "high")]
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["study", "verdict", "risk", "reasons", "distance", *numbers])
        for record in sorted(records, key=lambda record: -risk_of(record)):
            found = record.get("quality")
            name = record["name"] or record["study"]
            if not found:
                writer.writerow([name, NOT_ASSESSED, "", record.get("message", ""), "", *[""] * len(numbers)])
                continue
            dice = [f"{value:.3f}" for structure in structures for value in found["predicted_dice"][structure]]
            writer.writerow(
                [name, found["verdict"], found["risk"], "; ".join(found["reasons"]), found["distance"], *dice]
            )


def risk_of(record: Mapping[str, Any]) -> float:
    """Returns the risk of a case, by which cases are ordered; that of a case that was not assessed is the highest."""
    quality = record.get("quality")
    return float(quality["risk"]) if quality else float("inf")

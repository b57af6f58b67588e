"""Simulated sites: the patients of one datalist, dealt to several hospitals."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tskd_monai.data.datalist import load_datalist
from tskd_monai.files.json_files import write_json

DEALT = ("training", "validation", "unlabeled")


def split_datalist(datalist: str | Path, sites: int, fold: int | None = None) -> dict[str, dict[str, Any]]:
    """Returns the datalist of each simulated site, by its name `site-1`, `site-2`, ….

    Patients, not images, are dealt one after the other in the order of the datalist, so that the sites differ in size
    by one patient at most. Test patients go to no site.

    Args:
        datalist: datalist of all patients.
        sites: number of sites.
        fold: fold of its cross-validation.

    Raises:
        ValueError: if there are fewer than two sites, or fewer training patients than sites.
    """
    content = load_datalist(datalist, fold)
    cases = {section: list(dict.fromkeys(entry["case"] for entry in content[section])) for section in DEALT}
    if not 2 <= sites <= len(cases["training"]):
        raise ValueError(
            f"Expected --sites from 2 to {len(cases['training'])}, the number of training patients in {datalist}, "
            f"found {sites}."
        )
    owner = {section: {case: index % sites for index, case in enumerate(names)} for section, names in cases.items()}
    kept = {name: value for name, value in content.items() if name not in (*DEALT, "test", "folds", "folder")}
    return {
        f"site-{index + 1}": {
            **kept,
            **{section: _entries(content, section, owner[section], index) for section in DEALT},
            "test": [],
        }
        for index in range(sites)
    }


def _entries(content: Mapping[str, Any], section: str, owner: Mapping[str, int], site: int) -> list[dict[str, Any]]:
    return [entry for entry in content[section] if owner[entry["case"]] == site]


def write_sites(lists: Mapping[str, Mapping[str, Any]], folder: Path, options: Mapping[str, Any]) -> None:
    """Writes what each site would hold: its datalist, and its settings `<site>.json`.

    Args:
        lists: datalist of each site.
        folder: folder of the party settings, see `FOLDER_VARIABLE`.
        options: further settings of every site, such as `encoder_weights`.
    """
    for site, content in lists.items():
        write_json(folder / site / "datalist.json", content)
        own = {"datalist": str(folder / site / "datalist.json"), "output_dir": str(folder / site / "run")}
        write_json(folder / f"{site}.json", {**options, **own})

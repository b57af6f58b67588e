"""A tiny federation: three sites of planted names, on the patients of the phantom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.privacy.identifiers import FOLDER
from tskd_monai.data.datalist import load_datalist
from tskd_monai.data.planning.rules import plan_task
from tskd_monai.data.task import Task
from tskd_monai.datasets.phantom.study import write_study
from tskd_monai.federated.settings import FederationSettings
from tskd_monai.federated.split import split_datalist, write_sites

SITES = ("site-1", "site-2", "site-3")
SIZE = 32


def settings(kind: str = "student", rounds: int = 3, **options: Any) -> FederationSettings:
    """Returns the settings of a federation of a few steps."""
    return FederationSettings(kind, rounds, steps=2, seed=5, options={"batch_size": 2, **options})


def write_federation(folder: Path, validation: int = 2, **site_options: Any) -> tuple[Path, Task]:
    """Writes the data and the settings of the sites, and returns their folder and the common task.

    Every path of a site contains the name and the date of birth of a patient.

    Args:
        folder: folder of the sites.
        validation: number of validation patients; a site may have none.
        site_options: further settings of every site.
    """
    study = folder / FOLDER / "study"
    sections = {"training": 3, "validation": validation, "test": 1}
    write_study(study, seed=3, sections=sections, shape=(SIZE, SIZE, 6), spacing=(10.8, 10.8, 27.0))
    parties = folder / "parties"
    write_sites(split_datalist(study / "datalist.json", len(SITES)), parties, site_options)
    return parties, plan_task(load_datalist(study / "datalist.json"), image_size=SIZE)

"""The NVFlare job of a federation: JSON files only, no code."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from tskd_monai.data.task import Task, save_task
from tskd_monai.federated.settings import FederationSettings
from tskd_monai.files.json_files import write_json

START, TRAIN, VALIDATE = "start", "train", "validate"
"""Tasks of the sites: return the initial weights; train a round; validate the weights."""
TASK_FILE = "task.json"
SITE_COMPONENT = "tskd_monai.federated.nvflare_site.SiteExecutor"
SERVER_COMPONENT = "tskd_monai.federated.nvflare_server.FederatedRounds"
ALLOWED_COMPONENTS = [SITE_COMPONENT, SERVER_COMPONENT]
"""Value of NVFlare's `class_allow_list` at every party: a job can name nothing else."""


def write_job(
    folder: Path,
    settings: FederationSettings,
    task: Task,
    min_sites: int = 1,
    wait_seconds: int = 600,
    rounds_per_job: int = 0,
) -> Path:
    """Writes the folder that is submitted to NVFlare, and returns it.

    It holds the settings and the common task. The code is what each party has installed, and the data are what each
    site names in its own settings.

    Args:
        folder: folder of the job, named after it.
        settings: settings of the federation.
        task: common task.
        min_sites: see `FederatedRounds`, also the sites that must be connected when the job starts.
        wait_seconds: see `FederatedRounds`.
        rounds_per_job: see `FederatedRounds`.
    """
    app = folder / "app" / "config"
    federation = asdict(settings)
    leading: dict[str, Any] = {"min_sites": min_sites, "wait_seconds": wait_seconds, "rounds_per_job": rounds_per_job}
    write_json(
        folder / "meta.json",
        {"name": folder.name, "resource_spec": {}, "deploy_map": {"app": ["@ALL"]}, "min_clients": min_sites},
    )
    write_json(
        app / "config_fed_server.json",
        {
            "format_version": 2,
            "workflows": [{"id": "rounds", "path": SERVER_COMPONENT, "args": {"federation": federation, **leading}}],
            "components": [],
            "task_data_filters": [],
            "task_result_filters": [],
        },
    )
    write_json(
        app / "config_fed_client.json",
        {
            "format_version": 2,
            "executors": [
                {"tasks": [START, TRAIN, VALIDATE],
                 "executor": {"path": SITE_COMPONENT, "args": {"federation": federation}}}
            ],
            "components": [],
            "task_data_filters": [],
            "task_result_filters": [],
        },
    )  # fmt: skip
    save_task(task, app / TASK_FILE)
    return folder

"""NVFlare's startup kits, with what a site of this project needs: no code from jobs, no logs to the server."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tskd_monai.federated.job import ALLOWED_COMPONENTS
from tskd_monai.files.json_files import read_json, write_json

PROJECT, ORGANISATION, SERVER, ADMIN = "tskd", "tskd", "localhost", "admin@tskd.org"
LOG_STREAMER = "site_log_streamer"
RIGHTS = {
    "format_version": "1.0",
    "permissions": {
        "project_admin": {
            **dict.fromkeys(("submit_job", "clone_job", "manage_job", "download_job", "view", "operate"), "any"),
            **dict.fromkeys(("shell_commands", "byoc"), "none"),
        }
    },
}
"""Rights at every party: the coordinator leads jobs, sends no code and reads no file of a site."""
TEMPLATES = "nvflare.lighter.impl"


def project(sites: Sequence[str], port: int) -> dict[str, Any]:
    """Returns the project of NVFlare's provisioning: a server on this machine, the sites and one coordinator.

    Args:
        sites: names of the sites.
        port: port of the server; the next one is the coordinator's.
    """
    server = {"name": SERVER, "type": "server", "org": ORGANISATION, "fed_learn_port": port, "admin_port": port + 1}
    clients = [{"name": site, "type": "client", "org": ORGANISATION, "allow_log_streaming": False} for site in sites]
    admin = {"name": ADMIN, "type": "admin", "org": ORGANISATION, "role": "project_admin"}
    return {
        "api_version": 3,
        "name": PROJECT,
        "description": "federation of tskd-monai",
        "participants": [server, *clients, admin],
        "builders": [
            {"path": f"{TEMPLATES}.workspace.WorkspaceBuilder", "args": {"template_file": ["master_template.yml"]}},
            {
                "path": f"{TEMPLATES}.static_file.StaticFileBuilder",
                "args": {"config_folder": "config", "scheme": "grpc"},
            },
            {"path": f"{TEMPLATES}.cert.CertBuilder"},
            {"path": f"{TEMPLATES}.signature.SignatureBuilder"},
        ],
    }


def write_kits(folder: Path, sites: Sequence[str], port: int) -> Path:
    """Writes the startup kits, with keys and certificates, once, and returns the folder that holds one of each party.

    Args:
        folder: folder of the kits.
        sites: names of the sites.
        port: port of the server.

    Raises:
        RuntimeError: if NVFlare's provisioning fails.
    """
    kits = folder / PROJECT / "prod_00"
    if not (kits / SERVER / "local" / "authorization.json").is_file():
        write_json(folder / "project.yml", project(sites, port))  # JSON is YAML
        command = [
            sys.executable,
            "-m",
            "nvflare.cli",
            "provision",
            "-p",
            str(folder / "project.yml"),
            "-w",
            str(folder),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if not (kits / SERVER).is_dir():
            raise RuntimeError(f"NVFlare's provisioning failed: {(done.stderr or done.stdout).strip()[-500:]}")
        for party in (*sites, SERVER):
            harden(kits / party / "local", folder / "store")
    return kits


def harden(local: Path, store: Path) -> None:
    """Writes a party's own policy, which takes precedence over the defaults of NVFlare.

    NVFlare's default would send `error_log.txt` of a site to the server: error messages may name files of patients.

    Args:
        local: folder `local/` of the party's kit.
        store: folder of the server's jobs.
    """
    resources = read_json(local / "resources.json.default")
    resources["class_allow_list"] = ALLOWED_COMPONENTS
    resources["components"] = [part for part in resources["components"] if part["id"] != LOG_STREAMER]
    if "servers" in resources:
        resources["snapshot_persistor"]["args"]["storage"]["args"]["root_dir"] = str(store / "snapshots")
        for part in resources["components"]:
            if part["id"] == "job_manager":
                part["args"]["uri_root"] = str(store / "jobs")
    write_json(local / "resources.json", resources)
    write_json(local / "authorization.json", RIGHTS)  # last: marks a complete kit

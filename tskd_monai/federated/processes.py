"""Real processes of NVFlare on one machine: the simulator, or a server and sites that talk over mutual TLS."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tskd_monai.federated.job import ALLOWED_COMPONENTS
from tskd_monai.federated.kits import ADMIN, ORGANISATION, SERVER
from tskd_monai.federated.settings import FOLDER_VARIABLE
from tskd_monai.files.json_files import write_json

logger = logging.getLogger(__name__)

START_SECONDS = 120
SIMULATOR = "nvflare.private.fed.app.simulator.simulator"
SERVER_PROGRAM = "nvflare.private.fed.app.server.server_train"
CLIENT_PROGRAM = "nvflare.private.fed.app.client.client_train"


def environment(parties: Path) -> dict[str, str]:
    """Returns the environment of a party: its own settings, and no progress bars in its log."""
    return {**os.environ, FOLDER_VARIABLE: str(parties.resolve()), "TQDM_DISABLE": "1"}


def simulate(job: Path, workspace: Path, parties: Path, sites: Sequence[str], log: Path) -> None:
    """Runs a job in NVFlare's simulator, one process a site, and waits for its end.

    Args:
        job: folder of the job.
        workspace: folder of the simulator.
        parties: folder of the settings of all parties.
        sites: names of the sites.
        log: file for the output of all processes.
    """
    write_json(workspace / "local" / "resources.json", {"format_version": 2, "class_allow_list": ALLOWED_COMPONENTS})
    command = [sys.executable, "-m", SIMULATOR, str(job.resolve()), "-w", str(workspace.resolve())]
    with log.open("ab") as file:
        subprocess.run(
            [*command, "-c", ",".join(sites), "-t", str(len(sites))],
            stdout=file,
            stderr=file,
            env=environment(parties),
            check=False,  # the state of the rounds tells whether it has finished
        )


class Party:
    """The process of the server or of a site, with the processes of its jobs.

    Args:
        kit: startup kit of the party.
        parties: folder of its own settings.
    """

    def __init__(self, kit: Path, parties: Path) -> None:
        self.kit, self.parties = kit.resolve(), parties
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts the process; its output is appended to `console.txt` of the kit."""
        name = self.kit.name
        program, config, who = (
            (SERVER_PROGRAM, "fed_server.json", [])
            if name == SERVER
            else (CLIENT_PROGRAM, "fed_client.json", [f"uid={name}"])
        )
        command = [sys.executable, "-u", "-m", program, "-m", str(self.kit), "-s", config, "--set", "secure_train=true"]
        with (self.kit / "console.txt").open("ab") as file:
            self.process = subprocess.Popen(
                [*command, *who, f"org={ORGANISATION}", "config_folder=config"],
                stdout=file,
                stderr=file,
                cwd=self.kit,
                env=environment(self.parties),
                start_new_session=True,
            )

    def kill(self) -> None:
        """Ends the process and those of its jobs at once, as a power failure does (SIGKILL)."""
        if self.process is not None:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:  # it has ended by itself
                logger.info("%s has already ended.", self.kit.name)
            self.process.wait()
            self.process = None


def submit(kits: Path, job: Path) -> str:
    """Submits a job as the coordinator, and returns its id.

    Raises:
        RuntimeError: if the server cannot be reached.
    """
    session = _session(kits)
    try:
        return str(session.submit_job(str(job.resolve())))
    finally:
        session.close()


def job_status(kits: Path, job_id: str) -> str:
    """Returns NVFlare's status of a job, such as `RUNNING` or `FINISHED:COMPLETED`."""
    session = _session(kits)
    try:
        return str(session.get_job_status(job_id))
    finally:
        session.close()


def connected_sites(kits: Path) -> set[str]:
    """Returns the names of the sites that are connected to the server."""
    session = _session(kits)
    try:
        return {client.name for client in session.get_connected_client_list()}
    finally:
        session.close()


def wait_until(condition: Callable[[], bool], what: str, seconds: float = START_SECONDS) -> None:
    """Waits until a condition holds.

    Raises:
        TimeoutError: if it does not within the given time.
    """
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"Expected {what} within {seconds:.0f} s; the console.txt of each kit has the reason.")
        time.sleep(1)


def _session(kits: Path):  # type: ignore[no-untyped-def]  # a Session of NVFlare, which may not be installed
    from nvflare.fuel.flare_api.flare_api import new_secure_session

    end = time.monotonic() + START_SECONDS
    while True:
        try:
            return new_secure_session(ADMIN, str(kits / ADMIN), timeout=10.0)
        except Exception as error:  # NVFlare raises classes of its own while the server starts
            if time.monotonic() > end:
                raise RuntimeError(f"Expected the server to answer within {START_SECONDS} s, found {error}.") from error
            time.sleep(2)

"""Real processes of NVFlare: a server and three sites, of which all are killed in turn, and a search of what was sent.

They talk over mutual TLS on this machine. The test needs the extra `federated`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.federated.sites import SITES, settings, write_federation
from tests.privacy.identifiers import FOLDER, found_identifiers, search
from tskd_monai.data.task import Task
from tskd_monai.federated.job import write_job
from tskd_monai.federated.kits import SERVER, write_kits
from tskd_monai.federated.messages import MESSAGES_FOLDER, RECORD_FILE
from tskd_monai.federated.processes import Party, connected_sites, simulate, submit, wait_until
from tskd_monai.federated.settings import SERVER_FOLDER, FederationSettings
from tskd_monai.federated.site_log import PRIVATE_LOG
from tskd_monai.federated.state import FederationState
from tskd_monai.files.json_files import read_json

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(find_spec("nvflare") is None, reason="needs the extra federated (scripts/federated.sh)"),
]

PORT = 18612
PATIENCE = 600.0
"""Seconds for a step of the test: each job starts processes that import MONAI."""


class Network:
    """A server and sites on this machine, with a job of two rounds at a time."""

    def __init__(self, folder: Path, parties: Path, used: FederationSettings, task: Task) -> None:
        self.kits = write_kits(folder / "network", SITES, PORT)
        self.job = write_job(folder / "job", used, task, min_sites=1, wait_seconds=120, rounds_per_job=2)
        self.parties = {name: Party(self.kits / name, parties) for name in (SERVER, *SITES)}
        self.read: Callable[[], FederationState] = lambda: FederationState(
            parties / SERVER_FOLDER, used.hash(task), used.rounds
        )

    def start(self, *names: str) -> None:
        for name in names:
            self.parties[name].start()
        alive = {name for name in SITES if self.parties[name].process is not None}
        wait_until(lambda: alive <= connected_sites(self.kits), f"connected: {sorted(alive)}", PATIENCE)

    def lead_two_rounds(self) -> None:
        reached = min(self.read().round + 2, self.read().rounds)
        submit(self.kits, self.job)
        self.wait_for_round(reached)
        wait_until(lambda: self.read().done or self.read().round < self.read().rounds, "the last validation", PATIENCE)

    def wait_for_round(self, number: int) -> None:
        wait_until(lambda: self.read().round >= number, f"round {number} to begin", PATIENCE)


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    parties, task = write_federation(tmp_path)
    for site in SITES:
        (parties / site / "run" / MESSAGES_FOLDER).mkdir(parents=True)
    network = Network(tmp_path, parties, settings(rounds=6), task)
    yield network
    for party in network.parties.values():
        party.kill()


def test_lost_sites_late_sites_and_a_killed_server(network: Network, tmp_path: Path) -> None:
    network.start(SERVER, "site-1", "site-2")
    submit(network.kits, network.job)
    network.wait_for_round(1)
    network.parties["site-2"].kill()  # in the middle of a round
    network.wait_for_round(2)  # which is completed without it

    network.start("site-2", "site-3")  # one is back, one comes late
    submit(network.kits, network.job)
    network.wait_for_round(3)
    before = network.read()
    network.parties[SERVER].kill()
    assert network.read().round >= before.round

    network.start(SERVER)
    while not network.read().done:
        network.lead_two_rounds()

    rows = network.read().rows
    assert [row["round"] for row in rows] == [0, 1, 2, 3, 4, 5, 6]  # each once, in spite of the kills
    assert rows[0]["sites"] == ["site-1", "site-2"]
    assert "site-3" in rows[2]["sites"] and "site-2" in rows[2]["sites"]
    assert rows[6]["val_cases"] == 2
    check_what_was_sent(network, tmp_path)


def check_what_was_sent(network: Network, tmp_path: Path) -> None:
    """Searches every message, the server's files and the logs of all parties for names and dates of patients."""
    messages = sorted((tmp_path / "parties").glob(f"*/run/{MESSAGES_FOLDER}/*.fobs"))
    assert len(messages) >= 12
    for message in messages:
        assert found_identifiers(message.read_bytes()) == set(), message.name
        assert b"case_" not in message.read_bytes(), message.name
    for folder in (network.kits, network.job, tmp_path / "parties" / SERVER_FOLDER):
        searched, found = search(folder, ())
        assert searched and not found
    lines = (tmp_path / "parties" / "site-1" / "run" / RECORD_FILE).read_text().splitlines()
    assert len(lines) == len(list((tmp_path / "parties" / "site-1" / "run" / MESSAGES_FOLDER).iterdir()))
    assert FOLDER in (tmp_path / "parties" / "site-1" / "datalist.json").read_text()  # it was there to be found


def test_a_site_that_fails_keeps_the_reason(tmp_path: Path) -> None:
    """A label is missing at one site: the others go on, and the name of the file stays in the site's private log."""
    parties, task = write_federation(tmp_path)
    entry = read_json(parties / "site-2" / "datalist.json")["training"][0]
    Path(entry["label"]).unlink()
    used = settings(rounds=1)
    job = write_job(tmp_path / "job", used, task, min_sites=1, wait_seconds=120)
    simulate(job, tmp_path / "simulator", parties, SITES, tmp_path / "console.txt")
    state = FederationState(parties / SERVER_FOLDER, used.hash(task), used.rounds)
    assert state.done and state.rows[0]["sites"] == ["site-1", "site-3"]
    reason = (parties / "site-2" / "run" / "private" / PRIVATE_LOG).read_text()
    assert FOLDER in reason
    for folder in (tmp_path / "simulator", parties / SERVER_FOLDER):
        searched, found = search(folder, ())
        assert searched and not found
    assert found_identifiers((tmp_path / "console.txt").read_bytes()) == set()

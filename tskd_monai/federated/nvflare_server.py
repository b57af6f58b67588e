"""The part of NVFlare's server process that leads the rounds; it needs the extra `federated`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.workflows.model_controller import ModelController

from tskd_monai.data.task import load_task
from tskd_monai.federated.job import START, TASK_FILE, TRAIN, VALIDATE
from tskd_monai.federated.settings import SERVER_FOLDER, FederationSettings, party_folder
from tskd_monai.federated.state import FederationState
from tskd_monai.federated.update import SiteUpdate
from tskd_monai.federated.weights import as_transported, num_bytes


class FederatedRounds(ModelController):
    """Federated averaging that continues after a restart of the server and without lost sites.

    NVFlare's own FedAvg sums the results in the order of arrival, holds its progress in memory and waits for every site
    of a round. This one sums in the order of names, saves after each round, and continues with `min_sites`.

    Args:
        federation: fields of `FederationSettings`.
        min_sites: answers without which a round is not complete.
        wait_seconds: how long a round waits for further sites once it has `min_sites` answers.
        rounds_per_job: rounds after which the job ends, so that sites that came meanwhile join the next; 0: all.
    """

    def __init__(
        self, federation: dict[str, Any], min_sites: int = 1, wait_seconds: int = 600, rounds_per_job: int = 0
    ) -> None:
        super().__init__(persistor_id="", ignore_result_error=True)
        self.federation = FederationSettings(**federation)
        self.min_sites, self.wait_seconds, self.rounds_per_job = min_sites, wait_seconds, rounds_per_job

    def run(self) -> None:
        """Leads the rounds of this job.

        Raises:
            RuntimeError: if too few sites answer; the state of the last complete round is saved.
        """
        settings = self.federation
        task = load_task(Path(self.get_app_dir()) / "config" / TASK_FILE)
        state = FederationState(party_folder() / SERVER_FOLDER, settings.hash(task), settings.rounds)
        last = min(state.round + (self.rounds_per_job or settings.rounds), settings.rounds)
        if not state.weights:
            self._start(state)
        while state.round < last:
            self._round(state, TRAIN)
        if state.round == settings.rounds:
            self._round(state, VALIDATE)

    def _start(self, state: FederationState) -> None:
        """Takes the initial weights from the first site that has them, in the order of names."""
        for site in sorted(self.sample_clients()):
            if answers := self._asked(START, FLModel(params={}, current_round=0), [site], 1):
                state.start(answers[site])
                return
        raise RuntimeError("Expected initial weights from a site, found none; the logs of the sites have the reason.")

    def _round(self, state: FederationState, task: str) -> None:
        """Completes one round: sends the weights, waits, checks the answers, averages and saves."""
        weights = as_transported(state.weights, self.federation.transport)
        model = FLModel(params=weights, current_round=state.round, total_rounds=state.rounds)
        good, refused = state.accepted(self._asked(task, model, sorted(self.sample_clients()), self.min_sites))
        for site, reason in refused.items():
            self.warning(f"The message of {site} is refused: {reason}")
        if len(good) < self.min_sites:
            raise RuntimeError(
                f"Expected {self.min_sites} sites in round {state.round}, found {len(good)}; the earlier rounds are "
                "saved, submit the job again to continue."
            )
        state.complete_round(good, num_bytes(weights))
        dice = state.rows[-1].get("val_mean_dice")
        shown = "" if dice is None else f", Dice of the received weights {dice:.3f}"
        self.info(f"Round {state.rows[-1]['round']} of {state.rounds} with {', '.join(good)}{shown}.")

    def _asked(self, task: str, model: FLModel, sites: Sequence[str], needed: int) -> dict[str, SiteUpdate]:
        """Returns the answer of each site that gave one."""
        results = self.broadcast_model(
            task_name=task,
            data=model,
            targets=list(sites),
            min_responses=min(needed, len(sites)),
            wait_time_after_min_received=self.wait_seconds,
        )
        return {result.meta["client_name"]: SiteUpdate(result.params or {}, result.metrics or {}) for result in results}

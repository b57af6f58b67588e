"""The state of the server: common weights, the best of them, and the table of rounds; saved after each round."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tskd_monai.federated.update import SiteUpdate, checked_update
from tskd_monai.federated.weights import Arrays, num_bytes, shapes_of, weighted_average
from tskd_monai.files.json_files import write_json
from tskd_monai.training.checkpoint import load_checkpoint, save_checkpoint

STATE_FILE = "state.pt"
TABLE_FILE = "rounds.json"


class FederationState:
    """What a restarted server needs to continue with the next round.

    A round of a site depends on the common weights and the number of the round only, so a round that was interrupted
    is done again, with the same result.

    Args:
        folder: folder of the server's files; a saved state in it is loaded.
        identity: hash of the federation's settings and task.
        rounds: number of rounds.

    Raises:
        ValueError: if the folder holds the state of another federation.
    """

    def __init__(self, folder: str | Path, identity: str, rounds: int) -> None:
        self.folder, self.identity, self.rounds = Path(folder), identity, rounds
        self.round, self.weights, self.best = 0, Arrays(), Arrays()
        self.best_round = 0
        self.best_dice: float | None = None
        self.rows: list[dict[str, Any]] = []
        if (self.folder / STATE_FILE).is_file():
            self._load(load_checkpoint(self.folder / STATE_FILE))

    @property
    def done(self) -> bool:
        """Whether all rounds are complete and the last weights are validated."""
        return self.round > self.rounds

    def start(self, update: SiteUpdate) -> None:
        """Sets the initial weights, which one site has drawn from the common seed."""
        self.weights = {name: np.asarray(value, np.float32) for name, value in update.weights.items()}
        self.save()

    def accepted(self, updates: Mapping[str, SiteUpdate]) -> tuple[dict[str, SiteUpdate], dict[str, str]]:
        """Returns the updates that pass the check, in the order of names, and the reason for each refused one."""
        shapes = shapes_of(self.weights) if self.round < self.rounds else {}
        good, refused = {}, {}
        for site in sorted(updates):
            try:
                good[site] = checked_update(updates[site], shapes)
                if shapes and good[site].slices <= 0:
                    raise ValueError("Expected a positive number of slices.")
            except ValueError as error:
                good.pop(site, None)
                refused[site] = str(error)
        return good, refused

    def complete_round(self, updates: Mapping[str, SiteUpdate], sent_bytes: int) -> None:
        """Averages the updates of a round, weighted by labelled slices, and saves the state.

        After the last round, the updates hold the validation of the final weights only.

        Args:
            updates: accepted updates by site, in the order of the sum.
            sent_bytes: size of the weights sent to each site.
        """
        row: dict[str, Any] = {"round": self.round, "sites": list(updates)}
        self._note_validation(updates, row)
        if self.round < self.rounds:
            weights = [update.slices for update in updates.values()]
            self.weights = weighted_average([update.weights for update in updates.values()], weights)
            losses = [update.numbers["train_loss"] for update in updates.values()]
            row["slices"] = [int(weight) for weight in weights]
            row["train_loss"] = float(np.average(losses, weights=weights))
        row["bytes_to_site"] = sent_bytes
        row["bytes_from_site"] = max((num_bytes(update.weights) for update in updates.values()), default=0)
        self.rows.append(row)
        self.round += 1
        self.save()

    def _note_validation(self, updates: Mapping[str, SiteUpdate], row: dict[str, Any]) -> None:
        """Keeps the weights that were validated if they are the best so far: mean Dice over all cases of the sites."""
        found = [update.numbers for update in updates.values() if update.numbers.get("val_cases")]
        if found:
            cases = [numbers["val_cases"] for numbers in found]
            dice = float(np.average([numbers["val_mean_dice"] for numbers in found], weights=cases))
            row |= {"val_mean_dice": dice, "val_cases": int(sum(cases))}
            if self.best_dice is None or dice > self.best_dice:
                self.best, self.best_dice, self.best_round = dict(self.weights), dice, self.round
        elif self.best_dice is None and self.round == self.rounds:
            self.best, self.best_round = dict(self.weights), self.round

    def save(self) -> None:
        """Writes the state and the table, each atomically."""
        content = {name: getattr(self, name) for name in ("identity", "round", "best_round", "best_dice", "rows")}
        tensors = {"weights": _tensors(self.weights), "best": _tensors(self.best)}
        save_checkpoint({**content, **tensors}, self.folder / STATE_FILE)
        write_json(self.folder / TABLE_FILE, self.rows)

    def _load(self, content: Mapping[str, Any]) -> None:
        if content["identity"] != self.identity:
            raise ValueError(
                f"{self.folder / STATE_FILE} is of a federation with other settings or another task. Choose another "
                "folder, or remove it to start again."
            )
        self.round, self.rows = content["round"], list(content["rows"])
        self.best_round, self.best_dice = content["best_round"], content["best_dice"]
        self.weights, self.best = _arrays(content["weights"]), _arrays(content["best"])


def _tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in arrays.items()}


def _arrays(tensors: Mapping[str, torch.Tensor]) -> Arrays:
    return {name: value.numpy() for name, value in tensors.items()}

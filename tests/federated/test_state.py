"""The server's state: weighting, the choice of the best weights, refusal of odd messages, and exact resumption."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tskd_monai.federated.state import FederationState
from tskd_monai.federated.update import SiteUpdate, checked_update


def update(value: float, slices: int = 1, dice: float | None = None, cases: int = 1) -> SiteUpdate:
    validated = {} if dice is None else {"val_mean_dice": dice, "val_cases": cases}
    return SiteUpdate(
        {"w": np.full(2, value, np.float32)}, {"slices": slices, "train_loss": 1.0 / (1 + value), **validated}
    )


def validation(dice: float, cases: int) -> SiteUpdate:
    return SiteUpdate({}, {"val_mean_dice": dice, "val_cases": cases})


def started(folder: Path, rounds: int = 2) -> FederationState:
    state = FederationState(folder, "id", rounds)
    state.start(SiteUpdate({"w": np.zeros(2, np.float32)}, {}))
    return state


def test_sites_count_by_their_slices_and_the_best_weights_by_the_cases(tmp_path: Path) -> None:
    state = started(tmp_path)
    state.complete_round({"a": update(1, slices=30), "b": update(5, slices=10)}, 8)
    np.testing.assert_array_equal(state.weights["w"], [2, 2])
    state.complete_round({"a": update(3, dice=0.9, cases=1), "b": update(3, dice=0.5, cases=3)}, 8)
    assert state.rows[1]["val_mean_dice"] == pytest.approx(0.6)
    assert not state.done
    state.complete_round({"a": validation(0.4, 1), "b": validation(0.6, 3)}, 8)
    assert state.done and state.best_round == 1
    np.testing.assert_array_equal(state.best["w"], [2, 2])  # those before round 1, not the last


def test_without_any_validation_the_last_weights_are_the_result(tmp_path: Path) -> None:
    state = started(tmp_path, rounds=1)
    state.complete_round({"a": update(4)}, 8)
    state.complete_round({"a": SiteUpdate({}, {})}, 8)
    assert state.done and state.best_round == 1
    np.testing.assert_array_equal(state.best["w"], [4, 4])


def test_a_restarted_server_continues_with_the_same_state(tmp_path: Path) -> None:
    state = started(tmp_path)
    state.complete_round({"a": update(1), "b": update(2)}, 8)
    again = FederationState(tmp_path, "id", 2)
    assert (again.round, again.rows) == (1, state.rows)
    np.testing.assert_array_equal(again.weights["w"], state.weights["w"])
    for one in (state, again):
        one.complete_round({"a": update(3, dice=0.5)}, 8)
    np.testing.assert_array_equal(again.best["w"], state.best["w"])


def test_the_state_of_another_federation_is_refused(tmp_path: Path) -> None:
    started(tmp_path)
    with pytest.raises(ValueError, match="other settings or another task"):
        FederationState(tmp_path, "another", 2)


def test_the_order_of_arrival_does_not_matter(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sent = {f"site-{i}": update(float(rng.random()), slices=i + 1) for i in range(5)}
    states = []
    for name, order in (("forward", list(sent)), ("backward", list(sent)[::-1])):
        state = started(tmp_path / name)
        good, _ = state.accepted({site: sent[site] for site in order})
        state.complete_round(good, 8)
        states.append(state)
    assert states[0].weights["w"].tobytes() == states[1].weights["w"].tobytes()


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (SiteUpdate({"v": np.zeros(2, np.float32)}, {"slices": 1}), "in place of"),
        (SiteUpdate({"w": np.full(2, np.inf, np.float32)}, {"slices": 1}), "finite"),
        (SiteUpdate({"w": np.zeros(2, np.float32)}, {"slices": 0}), "positive number of slices"),
        (SiteUpdate({"w": np.zeros(2, np.float32)}, {"slices": 1, "Jane Doe": 1.0}), "found another"),
        (SiteUpdate({"w": np.zeros(2, np.float32)}, {"slices": "/data/Jane"}), "finite number as slices"),  # type: ignore[dict-item]
    ],
)
def test_one_odd_site_is_left_out_and_the_round_goes_on(tmp_path: Path, wrong: SiteUpdate, reason: str) -> None:
    state = started(tmp_path)
    good, refused = state.accepted({"a": update(1), "b": wrong})
    assert list(good) == ["a"]
    assert reason in refused["b"]
    assert "Jane" not in refused["b"]


def test_a_site_sends_no_text() -> None:
    with pytest.raises(ValueError, match="finite number as train_loss in a message, found str"):
        checked_update(SiteUpdate({}, {"train_loss": "Jane"}), {})  # type: ignore[dict-item]

"""A site's rounds with the bundle's own config: what starts a round, what it depends on, and what it returns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.federated.sites import SITES, settings, write_federation
from tskd_monai.bundle.run import BundleRun
from tskd_monai.data.task import Task
from tskd_monai.federated.result import write_result
from tskd_monai.federated.settings import FOLDER_VARIABLE, FederationSettings, site_settings
from tskd_monai.federated.site import SiteTraining, rewind
from tskd_monai.federated.state import FederationState
from tskd_monai.federated.weights import Arrays
from tskd_monai.files.json_files import read_json, write_json
from tskd_monai.files.shipped import BUNDLES
from tskd_monai.networks.teacher_folder import load_teacher
from tskd_monai.networks.weights_file import read_weights
from tskd_monai.training.checkpoint import load_checkpoint
from tskd_monai.training.optimisation import lr_schedule


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Task]:
    return write_federation(tmp_path_factory.mktemp("federation"))


@pytest.fixture
def federation(written: tuple[Path, Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    (folder, task), parties = written, tmp_path / "parties"
    for site in SITES:
        own = read_json(folder / f"{site}.json")
        write_json(parties / f"{site}.json", {**own, "output_dir": str(parties / site / "run")})
    monkeypatch.setenv(FOLDER_VARIABLE, str(parties))
    monkeypatch.setenv("TQDM_DISABLE", "1")
    opened: list[SiteTraining] = []

    def open_site(name: str, used: FederationSettings | None = None) -> SiteTraining:
        opened.append(SiteTraining(used or settings(), site_settings(name), task))
        return opened[-1]

    yield open_site, task, parties
    for site in opened:
        site.close()


def equal(one: Arrays, other: Arrays) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def test_a_round_depends_on_the_weights_and_its_number_only(federation) -> None:  # type: ignore[no-untyped-def]
    open_site, _, _ = federation
    site = open_site("site-1")
    initial = site.start().weights
    first = site.train(0, initial).weights
    second = site.train(1, first)
    site.close()
    restarted = open_site("site-1")  # as after a kill: no state but what the server sends
    again = restarted.train(1, first)
    assert equal(again.weights, second.weights)
    assert again.numbers == second.numbers
    assert not equal(second.weights, first)
    assert [row["epoch"] for row in restarted.history.rows] == [1, 2]  # the line of the earlier process is kept


def test_the_first_steps_of_a_federation_are_those_of_the_bundle_alone(federation, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """A site trains as `monai.bundle run` does, to the bit, in the first round."""
    open_site, _, parties = federation
    site = open_site("site-1", settings(rounds=2))
    sent = site.train(0, site.start().weights).weights
    task, datalist = parties / "site-1" / "run" / "task.json", read_json(parties / "site-1.json")["datalist"]
    own = {
        "datalist": Path(datalist),
        "task": task,
        "output_dir": tmp_path / "alone",
        "device": "cpu",
        "val_interval": 9,
    }
    run = BundleRun(
        BUNDLES / "distillation",
        ("fine_tune.yaml", "scratch.yaml"),
        {**own, **settings(rounds=2).overrides(), "max_epochs": 1, "train#lr_scheduler#steps": 4},
    )
    run.run_here(logging_file=False)
    alone = load_checkpoint(tmp_path / "alone" / "last.pt")["network"]
    for name, value in sent.items():
        assert np.array_equal(value, alone[name].numpy()), name


def test_sites_agree_on_the_initial_weights(federation) -> None:  # type: ignore[no-untyped-def]
    open_site, _, _ = federation
    assert equal(open_site("site-1").start().weights, open_site("site-2").start().weights)


def test_a_site_without_validation_patients_trains(federation) -> None:  # type: ignore[no-untyped-def]
    open_site, _, _ = federation
    site = open_site("site-3")
    update = site.train(1, site.start().weights)
    assert set(update.numbers) == {"slices", "train_loss"}
    assert site.validate(update.weights).numbers == {}


def test_weights_of_another_network_are_refused(federation) -> None:  # type: ignore[no-untyped-def]
    open_site, _, _ = federation
    site = open_site("site-1")
    with pytest.raises(ValueError, match="all parties need the same settings"):
        site.train(0, {"w": np.zeros(1, np.float32)})


def test_the_rounds_end_in_a_student_that_segments(federation, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    open_site, task, _ = federation
    used = settings(rounds=2)
    sites = {name: open_site(name, used) for name in SITES}
    state = FederationState(tmp_path / "server", used.hash(task), used.rounds)
    state.start(sites["site-1"].start())
    with pytest.raises(ValueError, match="Expected 2 complete rounds"):
        write_result(state, used, task, tmp_path / "result", {})
    while state.round < used.rounds:
        good, refused = state.accepted({name: site.train(state.round, state.weights) for name, site in sites.items()})
        assert not refused
        state.complete_round(good, 0)
    state.complete_round({name: site.validate(state.weights) for name, site in sites.items()}, 0)
    write_result(state, used, task, tmp_path / "result", {})
    weights = read_weights(tmp_path / "result" / "models" / "model.pt")
    assert equal({name: value.numpy() for name, value in weights.items()}, state.best)
    assert read_json(tmp_path / "result" / "record.json")["results"]["rounds"] == 2


def test_the_rounds_of_a_teacher_end_in_a_teacher_folder(federation, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    open_site, task, _ = federation
    used = FederationSettings("teacher", 1, 1, seed=5, transport="float16", options={"batch_size": 2, "lora_rank": 2})
    site = open_site("site-3", used)
    state = FederationState(tmp_path / "server", used.hash(task), 1)
    state.start(site.start())
    good, _ = state.accepted({"site-3": site.train(0, state.weights)})
    assert all(value.dtype == np.float16 for value in good["site-3"].weights.values())
    state.complete_round(good, 0)
    state.complete_round({"site-3": site.validate(state.weights)}, 0)
    write_result(state, used, task, tmp_path / "result", {})
    teacher = load_teacher(tmp_path / "result")
    sent = {name: value for name, value in state.best.items() if "lora" not in name}
    found = teacher.state_dict()
    assert sent and all(np.array_equal(value, found[name].numpy()) for name, value in sent.items())


def test_rewinding_gives_the_learning_rate_of_the_step_and_no_moments() -> None:
    parameter = torch.nn.Parameter(torch.ones(2))

    def optimised():  # type: ignore[no-untyped-def]
        optimizer = torch.optim.AdamW([parameter], lr=0.1)
        return optimizer, lr_schedule(optimizer, steps=20)

    optimizer, scheduler = optimised()
    initial = optimizer.state_dict()
    rates = []
    for _ in range(8):
        parameter.grad = torch.ones(2)
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    other, schedule = optimised()
    rewind(other, schedule, initial, 5)
    assert not other.state_dict()["state"]
    for expected in rates[5:]:
        assert other.param_groups[0]["lr"] == pytest.approx(expected)
        other.step()
        schedule.step()

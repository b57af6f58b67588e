"""One round of MONAI's federated client with the training configs: initialise, train, return weights, evaluate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems, FlStatistics, ModelType, WeightType
from monai.fl.utils.exchange_object import ExchangeObject
from monai.networks.utils import get_state_dict

from tests.bundles.trainings import BUNDLES, SHORT, write_patients

pytestmark = pytest.mark.slow

LOCAL_EPOCHS = 2


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_patients(tmp_path_factory.mktemp("federated"))


def client(bundle: Path, config: str, evaluates: bool = True, **options: Any) -> MonaiAlgo:
    """Returns an initialised client; for evaluation, it reads the training config again.

    MONAI's own default for the evaluation, train.json with evaluate.json laid over it, requires an `evaluator` in the
    training config; ours is `validate#evaluator`, which the property of a training workflow names.
    """
    arguments = {**SHORT, "bundle_root": str(bundle), **options}
    algorithm = MonaiAlgo(
        bundle_root=str(bundle),
        local_epochs=LOCAL_EPOCHS,
        config_train_filename=config,
        train_kwargs=dict(arguments),
        config_evaluate_filename=config if evaluates else None,
        eval_kwargs=dict(arguments),
        eval_workflow_name="train",
    )
    algorithm.initialize(extra={ExtraItems.CLIENT_NAME: "site-1"})
    return algorithm


def student_options(study: Path) -> dict[str, Any]:
    """Returns the options of a client that trains the student: the server's weights are used, not the bundle's."""
    return {"datalist": str(study / "datalist.json"), "load_initial_weights": False}


def one_round(algorithm: MonaiAlgo) -> tuple[dict[str, torch.Tensor], ExchangeObject]:
    """Returns the weights that a server sends out, and the client's difference after training with them."""
    torch.manual_seed(1)
    before = get_state_dict(algorithm.trainer.network)
    sent = {name: value + 0.01 * torch.randn_like(value) if value.is_floating_point() else value
            for name, value in before.items()}  # fmt: skip
    algorithm.train(ExchangeObject(weights=dict(sent)))
    return sent, algorithm.get_weights()


def check(algorithm: MonaiAlgo, sent: dict[str, torch.Tensor], difference: ExchangeObject) -> None:
    """Checks that the round trained the server's weights for the local epochs, and returned the difference."""
    assert difference.weight_type == WeightType.WEIGHT_DIFF
    assert difference.statistics[FlStatistics.NUM_EXECUTED_ITERATIONS] == LOCAL_EPOCHS * SHORT["epoch_length"]
    now = get_state_dict(algorithm.trainer.network)
    assert set(difference.weights) == set(now)
    for name, value in difference.weights.items():
        torch.testing.assert_close(torch.as_tensor(value), now[name] - sent[name], rtol=1e-4, atol=1e-5)
    assert any(torch.as_tensor(value).abs().max() > 0 for value in difference.weights.values())


def test_the_students_training_is_a_client(study: Path, tmp_path: Path) -> None:
    algorithm = client(study / "student", "configs/train.json", **student_options(study))
    sent, difference = one_round(algorithm)
    check(algorithm, sent, difference)
    metrics = algorithm.evaluate(ExchangeObject(weights=dict(sent))).metrics
    assert 0 <= metrics["val_mean_dice"] <= 1
    algorithm.finalize()
    best = algorithm.get_weights(extra={ExtraItems.MODEL_TYPE: ModelType.BEST_MODEL})
    assert set(best.weights) == set(sent)


@pytest.mark.parametrize("rounds", [1, 2])
def test_each_round_starts_from_the_servers_weights(study: Path, rounds: int) -> None:
    algorithm = client(study / "student", "configs/train.json", **student_options(study), learning_rate=0.0)
    for _ in range(rounds):
        _, difference = one_round(algorithm)
    assert all(not torch.as_tensor(value).any() for value in difference.weights.values())


def distillation_client(study: Path, output_dir: Path, learning_rate: float) -> MonaiAlgo:
    """Returns an initialised client of the distillation."""
    return client(
        BUNDLES / "distillation",
        "configs/train.yaml",
        evaluates=False,
        val_interval=1,
        datalist=str(study / "datalist.json"),
        task=str(study / "task.json"),
        teacher_dir=str(study / "teacher"),
        output_dir=str(output_dir),
        learning_rate=learning_rate,
        **{"train#checkpoint#resume": False},  # a round starts from the server's weights, not from its last epoch
    )


def test_the_distillation_is_a_client(study: Path, tmp_path: Path) -> None:
    """The server averages the student and its projection; each site runs its own copy of the teacher.

    MONAI's evaluation passes the trainer's weights to the evaluator, whose network here is the student without the
    projection; the client's own validation replaces it.
    """
    algorithm = distillation_client(study, tmp_path, learning_rate=0.002)
    sent, difference = one_round(algorithm)
    check(algorithm, sent, difference)
    assert any(name.startswith("projection") for name in sent)
    assert not any("encoder" in name for name in sent)  # the teacher is not sent
    history = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert 0 <= history[-1]["val_mean_dice"] <= 1


def test_a_second_round_of_the_distillation_starts_from_the_servers_weights(study: Path, tmp_path: Path) -> None:
    algorithm = distillation_client(study, tmp_path, learning_rate=0.0)
    for _ in range(2):
        _, difference = one_round(algorithm)
    assert all(not torch.as_tensor(value).any() for value in difference.weights.values())


def test_weights_of_another_network_are_refused(study: Path) -> None:
    algorithm = client(study / "student", "configs/train.json", **student_options(study))
    with pytest.raises(RuntimeError, match="No global weights converted"):
        algorithm.train(ExchangeObject(weights={"another.weight": torch.zeros(1)}))

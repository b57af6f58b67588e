from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers.training_utils import EMAModel
from ignite.engine import Engine

from tskd_monai.synthesis.ema import EmaHandler
from tskd_monai.training.checkpoint import load_checkpoint, save_checkpoint


def make(width: int = 3) -> tuple[torch.nn.Linear, EmaHandler]:
    torch.manual_seed(0)
    network = torch.nn.Linear(width, 2)
    return network, EmaHandler(EMAModel(network.parameters(), decay=0.9, use_ema_warmup=True, power=0.75), network)


def train(network: torch.nn.Module, handler: EmaHandler, values: list[float]) -> None:
    def step(engine: Engine, value: float) -> None:
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.fill_(value)

    trainer = Engine(step)
    handler.attach(trainer)
    trainer.run(values)


def test_average_is_between_the_weights_and_the_network_is_unchanged() -> None:
    network, handler = make()
    train(network, handler, [1.0, 2.0, 3.0])
    averaged = handler.averaged_network()
    for parameter in averaged.parameters():
        assert 1 < float(parameter.min()) <= float(parameter.max()) < 3
    assert torch.equal(network.weight, torch.full((2, 3), 3.0))
    assert not averaged.training
    assert network.training


def test_resuming_from_a_checkpoint_file_is_bitwise_equal(tmp_path: Path) -> None:
    values = [0.1, 0.7, 0.3, 0.9]
    network, whole = make()
    train(network, whole, values)

    network, first = make()
    train(network, first, values[:2])
    save_checkpoint({"ema": first.state_dict()}, tmp_path / "last.pt")
    network, second = make()
    second.load_state_dict(load_checkpoint(tmp_path / "last.pt")["ema"])
    train(network, second, values[2:])

    assert second.ema.optimization_step == 4
    for resumed, expected in zip(second.ema.shadow_params, whole.ema.shadow_params, strict=True):
        assert torch.equal(resumed, expected)


def test_average_of_another_network_is_refused() -> None:
    with pytest.raises(ValueError, match="resume with the network that the checkpoint was made with"):
        make(3)[1].load_state_dict(make(4)[1].state_dict())

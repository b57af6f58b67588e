from __future__ import annotations

import pytest
from ignite.engine import Engine

from tskd_monai.distillation.momentum_contrast import MomentumContrast, MomentumUpdate


class Noting(MomentumContrast):
    """Notes what momentum it is updated with."""

    def __init__(self) -> None:
        self.momenta: list[float] = []

    def update_momentum_encoder(self, momentum: float) -> None:
        self.momenta.append(momentum)


def test_the_momentum_rises_from_its_start_to_1_once_a_step() -> None:
    network, engine = Noting(), Engine(lambda engine, batch: None)
    update = MomentumUpdate(network, steps=10, start=0.9)
    update.attach(engine)
    engine.run(range(5), max_epochs=2)
    assert len(network.momenta) == 10 and network.momenta == sorted(network.momenta)
    assert network.momenta[0] == pytest.approx(0.9) and network.momenta[5] == pytest.approx(0.95)
    assert update.momentum(11) == 1


def test_a_start_above_1_is_refused() -> None:
    with pytest.raises(ValueError, match="--momentum from 0 to 1, found 1.5"):
        MomentumUpdate(Noting(), steps=10, start=1.5)

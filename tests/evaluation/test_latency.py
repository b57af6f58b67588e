from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from tskd_monai.evaluation.latency import count_parameters, measure_latency


class Recorder(nn.Module):
    """Notes in what order and state it is called."""

    def __init__(self, name: str, calls: list, pause: float = 0.0) -> None:
        super().__init__()
        self.name, self.calls, self.pause = name, calls, pause
        self.dropout = nn.Dropout()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls.append(
            (self.name, self.dropout.training, torch.is_inference_mode_enabled(), torch.get_num_threads())
        )
        time.sleep(self.pause)
        return images


def test_networks_take_turns_in_eval_and_inference_mode() -> None:
    calls: list = []
    networks = {"a": Recorder("a", calls), "b": Recorder("b", calls)}
    result = measure_latency(networks, (1, 1, 8, 8), repeats=3, threads=2)
    assert [call[0] for call in calls] == ["a", "b"] * 5  # two turns of warm-up
    assert {call[1:] for call in calls} == {(False, True, 2)}
    assert set(result) == {"a", "b"} and set(result["a"]) == {"median_ms", "min_ms"}


def test_the_slower_network_is_measured_as_slower() -> None:
    networks = {"slow": Recorder("slow", [], 0.02), "fast": Recorder("fast", [], 0.0)}
    result = measure_latency(networks, (1, 1, 8, 8), repeats=5)
    assert result["slow"]["min_ms"] >= 20 > result["fast"]["median_ms"]
    assert result["slow"]["median_ms"] >= result["slow"]["min_ms"]


@pytest.mark.parametrize("fails", [False, True])
def test_threads_and_modes_come_back_even_after_an_error(fails: bool) -> None:
    network = nn.Sequential(nn.Conv2d(2, 1, 1), nn.Dropout())
    network[1].eval()
    before = torch.get_num_threads()
    if fails:
        with pytest.raises(RuntimeError):
            measure_latency({"n": network}, (1, 3, 8, 8), repeats=1, threads=before + 1)
    else:
        measure_latency({"n": network}, (1, 2, 8, 8), repeats=1, threads=before + 1)
    assert torch.get_num_threads() == before
    assert [module.training for module in network.modules()] == [True, True, False]


def test_parameters_are_counted_once() -> None:
    layer = nn.Linear(3, 2)
    layer.bias.requires_grad_(False)
    assert count_parameters(nn.Sequential(layer, layer)) == 8
    assert count_parameters(layer, trainable_only=True) == 6


def test_nothing_to_measure_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one network.*found 0 networks"):
        measure_latency({}, (1, 1, 8, 8))
    with pytest.raises(ValueError, match="'n' on CPU.*meta"):
        measure_latency({"n": nn.Linear(1, 1, device="meta")}, (1, 1, 8, 8))

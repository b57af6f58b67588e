from __future__ import annotations

import logging
import time

import pytest
import torch
from torch import nn

from tskd_monai.networks.cost import count_parameters, measure_latency, multiply_adds


class Recorder(nn.Module):
    """Records the order and mode of its calls, and uses a given number of CPU seconds."""

    def __init__(self, name: str, calls: list, work: float = 0.002, sleep: float = 0.0) -> None:
        super().__init__()
        self.name, self.calls, self.work, self.sleep = name, calls, work, sleep
        self.dropout = nn.Dropout()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls.append(
            (self.name, self.dropout.training, torch.is_inference_mode_enabled(), torch.get_num_threads())
        )
        time.sleep(self.sleep)
        start = time.thread_time()
        while time.thread_time() - start < self.work:
            pass
        return images


def test_networks_take_turns_in_one_thread_in_eval_and_inference_mode() -> None:
    calls: list = []
    networks = {"a": Recorder("a", calls), "b": Recorder("b", calls)}
    result = measure_latency(networks, (1, 1, 8, 8), repeats=4)
    assert [call[0] for call in calls] == ["a", "b"] * 7  # three turns of warm-up
    assert {call[1:] for call in calls} == {(False, True, 1)}
    assert list(result) == ["a", "b"]


def test_networks_may_take_images_of_different_channels() -> None:
    networks = {f"of_{channels}": nn.Conv2d(channels, 64, 3) for channels in (1, 3)}
    shapes = {"of_1": (1, 1, 64, 64), "of_3": (1, 3, 64, 64)}
    assert list(measure_latency(networks, shapes, repeats=4)) == ["of_1", "of_3"]
    with pytest.raises(RuntimeError, match="3 channels"):
        measure_latency(networks, (1, 1, 64, 64), repeats=4)


def test_time_that_others_take_does_not_count() -> None:
    networks = {"waits": Recorder("waits", [], work=0.002, sleep=0.03), "works": Recorder("works", [], work=0.01)}
    result = measure_latency(networks, (1, 1, 8, 8), repeats=5)
    assert result["works"] is not None and result["works"] >= 10
    assert result["waits"] is not None and result["waits"] < 10


def test_a_latency_that_scatters_is_left_out_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    class Uneven(Recorder):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            self.work = 0.012 if len(self.calls) % 2 else 0.001
            return super().forward(images)

    with caplog.at_level(logging.WARNING):
        result = measure_latency({"uneven": Uneven("u", []), "even": Recorder("e", [])}, (1, 1, 8, 8), repeats=8)
    assert result["uneven"] is None and result["even"] is not None
    assert "The latency of uneven is left out" in caplog.text and "too busy" in caplog.text


@pytest.mark.parametrize("fails", [False, True])
def test_threads_and_modes_come_back_even_after_an_error(fails: bool) -> None:
    network = nn.Sequential(nn.Conv2d(2, 1, 1), nn.Dropout())
    network[1].eval()
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        if fails:
            with pytest.raises(RuntimeError):
                measure_latency({"n": network}, (1, 3, 8, 8), repeats=4)
        else:
            measure_latency({"n": network}, (1, 2, 8, 8), repeats=4)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert [module.training for module in network.modules()] == [True, True, False]


def test_multiply_adds_are_those_of_the_convolutions_forward_and_backward() -> None:
    network = nn.Sequential(nn.Conv2d(2, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 1, 1))
    first, second = 8 * 8 * 2 * 5 * 9, 8 * 8 * 5 * 1
    assert multiply_adds(network, (1, 2, 8, 8)) == first + second
    # Each convolution has a gradient of its weights, and all but the first one of its input.
    assert multiply_adds(network, (3, 2, 8, 8), backward=True) == 3 * (2 * first + 3 * second)
    network[0].requires_grad_(False)
    assert multiply_adds(network, (1, 2, 8, 8), backward=True) == first + 2 * second
    assert all(parameter.grad is None for parameter in network.parameters()) and network.training


def test_parameters_are_counted_once() -> None:
    layer = nn.Linear(3, 2)
    layer.bias.requires_grad_(False)
    assert count_parameters(nn.Sequential(layer, layer)) == 8
    assert count_parameters(layer, trainable_only=True) == 6


def test_nothing_to_measure_is_refused() -> None:
    with pytest.raises(ValueError, match=r"at least one network.*found 0 networks"):
        measure_latency({}, (1, 1, 8, 8))
    with pytest.raises(ValueError, match="repeats=3"):
        measure_latency({"n": nn.Linear(1, 1)}, (1, 1, 8, 8), repeats=3)
    with pytest.raises(ValueError, match=r"'n' on CPU.*meta"):
        measure_latency({"n": nn.Linear(1, 1, device="meta")}, (1, 1, 8, 8))

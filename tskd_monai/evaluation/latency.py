"""Latency of networks on CPU and their size."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from statistics import median

import torch
from torch import nn

WARM_UP = 2


def measure_latency(
    networks: Mapping[str, nn.Module], image_shape: tuple[int, int, int, int], repeats: int = 20, threads: int = 2
) -> dict[str, dict[str, float]]:
    """Returns the time of one forward pass per network, measured in turns: A, B, A, B.

    Turns share whatever else the machine does, so a ratio of two medians means more than either of them.

    Args:
        networks: name -> network on CPU; each is left in the mode it came in.
        image_shape: (B, C, H, W) of the input, drawn from [0, 1] with a fixed seed.
        repeats: timed passes per network, after two that are not timed.
        threads: CPU threads of torch during the measurement; restored afterwards.

    Returns:
        name -> {"median_ms", "min_ms"}.

    Raises:
        ValueError: if there is no network, `repeats` or `threads` is below 1, or a network is not on CPU.
    """
    if not networks or repeats < 1 or threads < 1:
        raise ValueError(
            "Expected at least one network, repeat and thread, found "
            f"{len(networks)} networks, repeats={repeats}, threads={threads}."
        )
    for name, network in networks.items():
        devices = {parameter.device.type for parameter in network.parameters()} - {"cpu"}
        if devices:
            raise ValueError(f"Expected network {name!r} on CPU, found it on {sorted(devices)}; move it with .cpu().")
    images = torch.rand(image_shape, generator=torch.Generator().manual_seed(0))
    times: dict[str, list[float]] = {name: [] for name in networks}
    with _threads(threads), _eval_mode(networks), torch.inference_mode():
        for turn in range(WARM_UP + repeats):
            for name, network in networks.items():
                start = time.perf_counter()
                network(images)
                elapsed = time.perf_counter() - start
                if turn >= WARM_UP:
                    times[name].append(1000 * elapsed)
    return {name: {"median_ms": median(of_one), "min_ms": min(of_one)} for name, of_one in times.items()}


def count_parameters(module: nn.Module, trainable_only: bool = False) -> int:
    """Returns the number of parameters, shared ones once; only those with gradients if `trainable_only`."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable_only)


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _eval_mode(networks: Mapping[str, nn.Module]) -> Iterator[None]:
    modes = [(module, module.training) for network in networks.values() for module in network.modules()]
    for network in networks.values():
        network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training

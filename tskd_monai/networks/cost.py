"""Latency of networks on a CPU, their size, and the cost of training them."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from statistics import median, quantiles

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

logger = logging.getLogger(__name__)

Shape = tuple[int, int, int, int]
WARM_UP = 3
LARGEST_SPREAD = 0.5
"""Interquartile range over median beyond which a latency reflects the machine rather than the network."""


def measure_latency(
    networks: Mapping[str, nn.Module], image_shape: Shape | Mapping[str, Shape], repeats: int = 31
) -> dict[str, float | None]:
    """Returns the single-thread CPU time of one forward pass, ms: the median of passes interleaved as A, B, A, B.

    CPU time excludes what other processes use, which wall-clock time does not. On a machine whose caches and cores are
    shared with other work, every pass is still slowed by a varying amount: if the passes of a network scatter too much,
    its latency is None, with a warning.

    Args:
        networks: name -> network on CPU; the training or evaluation mode of each is kept.
        image_shape: (B, C, H, W) of the input, of all networks or by name; drawn from [0, 1] with a fixed seed.
        repeats: timed passes per network, at least 4, after three that are not timed.

    Raises:
        ValueError: if there is no network, `repeats` is below 4, or a network is not on CPU.
    """
    if not networks or repeats < 4:
        raise ValueError(
            f"Expected at least one network and four repeats, found {len(networks)} networks and repeats={repeats}."
        )
    for name, network in networks.items():
        devices = {parameter.device.type for parameter in network.parameters()} - {"cpu"}
        if devices:
            raise ValueError(f"Expected network {name!r} on CPU, found it on {sorted(devices)}; move it with .cpu().")
    shapes = image_shape if isinstance(image_shape, Mapping) else dict.fromkeys(networks, image_shape)
    images = {name: torch.rand(shapes[name], generator=torch.Generator().manual_seed(0)) for name in networks}
    times: dict[str, list[float]] = {name: [] for name in networks}
    with _one_thread(), _eval_mode(networks), torch.inference_mode():
        for turn in range(WARM_UP + repeats):
            for name, network in networks.items():
                start = time.thread_time()
                network(images[name])
                elapsed = time.thread_time() - start
                if turn >= WARM_UP:
                    times[name].append(1000 * elapsed)
    return {name: _steady_median(name, of_one) for name, of_one in times.items()}


def _steady_median(name: str, milliseconds: list[float]) -> float | None:
    """Returns the median, or None with a warning if the values scatter too much to be meaningful."""
    middle = median(milliseconds)
    first, _, third = quantiles(milliseconds, n=4)
    if third - first <= LARGEST_SPREAD * middle:
        return middle
    logger.warning(
        "The latency of %s is left out: half of its passes lie between %.1f and %.1f ms, so the machine is too busy "
        "to measure it.",
        name,
        first,
        third,
    )
    return None


def multiply_adds(network: nn.Module, image_shape: Shape, backward: bool = False) -> int:
    """Returns the multiply-adds of one pass through a network, in matrix products and convolutions.

    They are counted from the shapes of the operations (torch's `FlopCounterMode`), so they do not depend on the
    machine.

    Args:
        network: maps images (B, C, H, W) to a tensor or a dictionary of tensors; its mode is kept.
        image_shape: (B, C, H, W) of the input.
        backward: count the gradients of the trainable parameters too.
    """
    device = next(network.parameters()).device
    counter = FlopCounterMode(display=False)
    with _eval_mode({"network": network}), torch.set_grad_enabled(backward), counter:
        output = network(torch.zeros(image_shape, device=device))
        if backward:
            outputs = output.values() if isinstance(output, Mapping) else [output]
            torch.stack([tensor.float().mean() for tensor in outputs]).sum().backward()
    network.zero_grad(set_to_none=True)
    return counter.get_total_flops() // 2


def training_step_seconds(network: nn.Module, image_shape: tuple[int, int, int, int], steps: int = 3) -> float:
    """Returns the wall-clock seconds of one training step: the median of a few, after one that is not timed.

    Args:
        network: maps images (B, C, H, W) to logits; its trainable weights are changed.
        image_shape: (B, C, H, W) of the input, drawn from [0, 1] with a fixed seed.
        steps: timed steps: forward, backward and AdamW.
    """
    device = next(network.parameters()).device
    images = torch.rand(image_shape, generator=torch.Generator().manual_seed(0)).to(device)
    optimiser = torch.optim.AdamW([parameter for parameter in network.parameters() if parameter.requires_grad])
    network.train()
    seconds = []
    for _ in range(1 + steps):
        start = time.perf_counter()
        optimiser.zero_grad()
        network(images).float().square().mean().backward()
        optimiser.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return median(seconds[1:])


def count_parameters(module: nn.Module, trainable_only: bool = False) -> int:
    """Returns the number of parameters, shared ones once; only those with gradients if `trainable_only`."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable_only)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
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

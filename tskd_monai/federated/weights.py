"""The tensors that travel between the sites and the server, their average and their size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Arrays = dict[str, np.ndarray]
"""Tensors by the names of the network, as they travel."""
TRANSPORT = {"float32": np.float32, "float16": np.float16}
"""Types of the numbers on the way; the server averages in float64 and keeps float32."""
STATISTICS = ("running_mean", "running_var")


def trained_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Returns what training changes: trainable parameters, and the running statistics of batch norm among them.

    A frozen encoder stays at its site. The students and decoders of this project have instance, group and layer norm,
    which keep no statistics; those of a batch norm are averaged like its weights.

    Args:
        network: network of the trainer; the tensors are its own, not copies.
    """
    tensors: dict[str, Tensor] = {name: value for name, value in network.named_parameters() if value.requires_grad}
    for name, module in network.named_modules():
        if isinstance(module, _BatchNorm) and any(value.requires_grad for value in module.parameters(recurse=False)):
            prefix = f"{name}." if name else ""
            found = {prefix + key: getattr(module, key) for key in STATISTICS}
            tensors.update({key: value for key, value in found.items() if value is not None})
    return tensors


def to_arrays(tensors: Mapping[str, Tensor], transport: str = "float32") -> Arrays:
    """Returns copies of the tensors on the CPU, in the type in which they travel.

    Raises:
        ValueError: if a number is not finite in that type.
    """
    arrays = {name: value.detach().float().cpu().numpy() for name, value in tensors.items()}
    return as_transported(arrays, transport)


def as_transported(arrays: Mapping[str, np.ndarray], transport: str) -> Arrays:
    """Returns copies of the arrays in the type in which they travel.

    Raises:
        ValueError: if the type is unknown, or a number is not finite in it.
    """
    if transport not in TRANSPORT:
        raise ValueError(f"Expected transport {' or '.join(TRANSPORT)}, found {transport}.")
    with np.errstate(over="ignore"):  # what exceeds the type is infinite, and is refused below
        sent = {name: value.astype(TRANSPORT[transport]) for name, value in arrays.items()}
    for name, value in sent.items():
        if not np.isfinite(value).all():
            raise ValueError(
                f"Expected finite numbers in {name} as {transport}, found NaN or infinity; nothing is sent."
            )
    return sent


def load_arrays(tensors: Mapping[str, Tensor], arrays: Mapping[str, np.ndarray]) -> None:
    """Copies received arrays into the network's own tensors.

    Raises:
        ValueError: see `check_alike`.
    """
    check_alike(arrays, shapes_of(tensors), "this site's network")
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(torch.from_numpy(np.asarray(arrays[name], dtype=np.float32)))


def shapes_of(tensors: Mapping[str, Tensor] | Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each tensor."""
    return {name: tuple(value.shape) for name, value in tensors.items()}


def check_alike(arrays: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], owner: str) -> None:
    """Checks that arrays have exactly the expected names and shapes, and finite numbers.

    Args:
        arrays: tensors of a message.
        shapes: expected shape by name.
        owner: whose shapes these are, for the message.

    Raises:
        ValueError: if a tensor is missing, unexpected, of another shape or type, or not finite.
    """
    found = shapes_of(arrays)
    if found != dict(shapes):
        name = min(name for name in found.keys() | shapes.keys() if found.get(name) != shapes.get(name))
        raise ValueError(
            f"Expected the tensors of {owner}, found {name} of shape {found.get(name, 'absent')} in place of "
            f"{shapes.get(name, 'absent')}; all parties need the same settings and version."
        )
    for name, value in arrays.items():
        if value.dtype not in TRANSPORT.values() or not np.isfinite(value).all():
            raise ValueError(f"Expected finite float32 or float16 numbers in {name}, found {value.dtype} or NaN.")


def weighted_average(arrays: Sequence[Mapping[str, np.ndarray]], weights: Sequence[float]) -> Arrays:
    """Returns the weighted mean of each tensor in float32, computed in float64 in the given order.

    `w = sum_k (n_k / n) w_k`, federated averaging. The order of the sum is the caller's, so that the result does not
    depend on which site answered first.

    Args:
        arrays: tensors of each site, alike.
        weights: positive weight of each site, n_k.

    Raises:
        ValueError: if there is no site, or a weight is not positive.

    Source: McMahan et al. 2017, https://arxiv.org/abs/1602.05629, algorithm 1.
    """
    if not arrays or min(weights) <= 0:
        raise ValueError(f"Expected sites with positive weights, found weights {list(weights)}.")
    total = float(sum(weights))
    mean: Arrays = {}
    for name in arrays[0]:
        parts = [np.asarray(site[name], np.float64) * (weight / total)
                 for site, weight in zip(arrays, weights, strict=True)]  # fmt: skip
        mean[name] = np.sum(parts, axis=0).astype(np.float32)
    return mean


def num_bytes(arrays: Mapping[str, np.ndarray]) -> int:
    """Returns the size of the numbers, without names."""
    return sum(value.nbytes for value in arrays.values())

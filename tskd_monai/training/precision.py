"""Numerical precision of training."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from monai.inferers import SimpleInferer

from tskd_monai.networks.bfloat16 import lack_of_bfloat16

logger = logging.getLogger(__name__)

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
AUTO = "auto"


def choose_precision(precision: str = "float32", device: torch.device | str = "cpu") -> str:
    """Returns `float32` or `bfloat16`, and logs its choice.

    Args:
        precision: `float32`, `bfloat16`, or `auto`: bfloat16 if the device supports it in hardware.
        device: device of the network.

    Raises:
        ValueError: when the precision is unknown, or the device does not support bfloat16 in hardware.
    """
    if precision not in (*PRECISIONS, AUTO):
        raise ValueError(f"Expected --precision {', '.join(PRECISIONS)} or {AUTO}, found {precision}.")
    if precision == "float32":
        return precision
    lacking = lack_of_bfloat16(device)
    if precision == AUTO:
        precision = "bfloat16" if lacking is None else "float32"
        logger.info("Precision: %s (%s).", precision, lacking or f"the {torch.device(device).type} computes in it")
    elif lacking is not None:
        raise ValueError(
            "Expected a CPU that computes in bfloat16 (AVX-512 BF16, AMX, Arm BF16), or a GPU (NVIDIA Ampere or "
            f"newer), found {lacking}, where it is many times slower. Train with --precision float32 or auto."
        )
    return precision


class PrecisionInferer(SimpleInferer):
    """Runs a network in float32 or, within autocast, in bfloat16; the logits are float32 in both cases.

    It covers CPUs and GPUs: MONAI's `amp` supports only CUDA and has no effect elsewhere. Weights, gradients, the loss
    and the optimiser stay float32, and bfloat16 has float32's range, so gradients are not scaled.

    Args:
        precision: `float32`, `bfloat16` or `auto`.
        device: device of the network.

    Attributes:
        precision: chosen precision, `float32` or `bfloat16`.

    Raises:
        ValueError: see `choose_precision`.
    """

    def __init__(self, precision: str = "float32", device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.precision = choose_precision(precision, device)
        self.device_type = torch.device(device).type

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Returns the network's output as float32; of a mapping, each tensor.

        Args:
            inputs: images (B, C, H, W), float32.
            network: network to run.
            args: further inputs of the network, part of MONAI's interface.
            kwargs: further inputs by name.
        """
        with torch.autocast(self.device_type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            output = network(inputs, *args, **kwargs)
        if isinstance(output, Mapping):
            return {name: value.float() for name, value in output.items()}
        return output.float()

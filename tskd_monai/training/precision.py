"""The arithmetic that a network is trained in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from monai.inferers import SimpleInferer

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class PrecisionInferer(SimpleInferer):
    """Runs a network in float32 or, where autocast allows it, in bfloat16; the logits are float32 either way.

    This is the one switch for CPUs and GPUs: MONAI's `amp` knows CUDA alone and does nothing elsewhere. Weights,
    gradients, the loss and the optimiser stay float32, and bfloat16 has float32's range, so no gradients are scaled.

    Args:
        precision: `float32` or `bfloat16`.
        device: that the network is on.

    Raises:
        ValueError: when the precision is unknown, or the device has no bfloat16.
    """

    def __init__(self, precision: str = "float32", device: torch.device | str = "cpu") -> None:
        super().__init__()
        if precision not in PRECISIONS:
            raise ValueError(f"Expected --precision {' or '.join(PRECISIONS)}, found {precision}.")
        self.device_type, self.dtype = torch.device(device).type, PRECISIONS[precision]
        if self.dtype is torch.bfloat16:
            _require_bfloat16(self.device_type)

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Returns the network's output as float32, each tensor of it where it is a mapping.

        Args:
            inputs: images (B, C, H, W), float32.
            network: to run.
            args: more inputs of the network, part of MONAI's interface.
            kwargs: the same by name.
        """
        with torch.autocast(self.device_type, torch.bfloat16, enabled=self.dtype is torch.bfloat16):
            output = network(inputs, *args, **kwargs)
        if isinstance(output, Mapping):
            return {name: value.float() for name, value in output.items()}
        return output.float()


def _require_bfloat16(device_type: str) -> None:
    """Raises ValueError where bfloat16 would be missing, or emulated and slow."""
    if device_type == "cpu":
        return
    if device_type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return
    found = torch.cuda.get_device_name() if device_type == "cuda" else device_type
    raise ValueError(
        f"Expected a CPU, or a GPU that computes in bfloat16 (NVIDIA Ampere or newer), found {found}. "
        "Train with --precision float32."
    )

"""Whether a device has bfloat16 arithmetic; without it bfloat16 is emulated and many times slower than float32."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from typing import Any

import torch

X86_INSTRUCTIONS = ("avx512_bf16", "amx_bf16")
ARM_INSTRUCTIONS = ("bf16", "sve_bf16")
PRODUCTS = 5
SIDE = 512  # side of the matrices for timing, which takes some 20 ms


def lack_of_bfloat16(device: torch.device | str) -> str | None:
    """Returns the name of a device without bfloat16 arithmetic, for a message; None if it has it."""
    kind = torch.device(device).type
    if kind == "cpu":
        return None if cpu_computes_bfloat16() else cpu_name()
    if kind == "cuda":
        return None if torch.cuda.is_bf16_supported(including_emulation=False) else torch.cuda.get_device_name()
    return kind


def cpu_computes_bfloat16() -> bool:
    """Returns whether the processor has bfloat16 instructions; if that is unknown, whether it is faster in a timing.

    On Arm it depends on how torch was built as well.
    """
    found = cpu_capabilities()
    if any(found.get(name) for name in X86_INSTRUCTIONS):
        return True
    unknown = not found or any(found.get(name) for name in ARM_INSTRUCTIONS)
    return unknown and _seconds(torch.bfloat16) < _seconds(torch.float32)


def cpu_capabilities() -> Mapping[str, Any]:
    """Returns the processor's capabilities by name; empty if torch is too old to report them."""
    capabilities = getattr(torch.cpu, "get_capabilities", None)
    return {} if capabilities is None else capabilities()


def cpu_name() -> str:
    """Returns the name of the processor, for a message."""
    return str(cpu_capabilities().get("cpu_name") or platform.processor() or platform.machine())


def _seconds(dtype: torch.dtype) -> float:
    """Returns the shortest time of a product of two matrices."""
    matrix = torch.ones(SIDE, SIDE, dtype=dtype)
    times = []
    for _ in range(PRODUCTS):
        start = time.perf_counter()
        torch.mm(matrix, matrix)
        times.append(time.perf_counter() - start)
    return min(times)

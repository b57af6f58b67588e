"""Where bfloat16 is used, by the capabilities that the processor reports."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from tskd_monai.networks import bfloat16

X86 = {"avx2": True, "avx512_bf16": False, "amx_bf16": False, "cpu_name": "Old Xeon"}


def pretend(monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, Any], seconds: float = 0.0) -> None:
    """Simulates a processor on which a bfloat16 product takes the given multiple of the float32 time."""
    monkeypatch.setattr(bfloat16, "cpu_capabilities", lambda: capabilities)
    monkeypatch.setattr(bfloat16, "_seconds", lambda dtype: 1 + seconds * (dtype is torch.bfloat16))


@pytest.mark.parametrize(
    ("capabilities", "seconds", "expected"),
    [
        (X86, -0.5, False),  # on x86 the instruction set decides: no timing
        ({**X86, "avx512_f": True, "avx_ne_convert": True}, -0.5, False),
        ({**X86, "avx512_bf16": True}, 0.5, True),
        ({**X86, "amx_bf16": True}, 0.5, True),
        ({"neon": True}, -0.5, False),
        ({"neon": True, "bf16": True}, -0.5, True),
        ({"neon": True, "bf16": True}, 5.0, False),  # a build of torch without them
        ({}, -0.5, True),
        ({}, 5.0, False),
    ],
)
def test_instructions_decide_and_elsewhere_the_time(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, Any], seconds: float, expected: bool
) -> None:
    pretend(monkeypatch, capabilities, seconds)
    assert bfloat16.cpu_computes_bfloat16() is expected


def test_what_lacks_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, X86)
    assert bfloat16.lack_of_bfloat16("cpu") == "Old Xeon"
    pretend(monkeypatch, {**X86, "amx_bf16": True})
    assert bfloat16.lack_of_bfloat16("cpu") is None
    assert bfloat16.lack_of_bfloat16("mps") == "mps"


def test_this_processor_is_known_in_no_time() -> None:
    start = time.process_time()
    assert isinstance(bfloat16.cpu_computes_bfloat16(), bool) and bfloat16.cpu_name()
    assert time.process_time() - start < 0.5


def test_a_torch_that_cannot_tell_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert bfloat16.cpu_capabilities() == {}
    assert isinstance(bfloat16.cpu_computes_bfloat16(), bool) and bfloat16.cpu_name()

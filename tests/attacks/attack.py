"""What an attack is, and the means to see whether it did harm."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

MARKER = "TSKD_ATTACK_MARKER"
"""Environment variable with the path of the file that planted code writes."""

Plant = Callable[[Path], Any]
Unguarded = Callable[[Any, pytest.MonkeyPatch], Any]


@dataclass(frozen=True)
class Attack:
    """One file, folder or option made to do harm.

    Attributes:
        name: of the attack.
        plant: writes it into an empty folder, and returns what `guarded` and `unguarded` take.
        guarded: what the project does with it; has to raise.
        message: what the error says, a regular expression.
        unguarded: the same where the guard is taken out; has to return something true that is the harm.
        errors: kinds of error that refuse it.
    """

    name: str
    plant: Plant
    guarded: Callable[[Any], Any]
    message: str
    unguarded: Unguarded
    errors: tuple[type[Exception], ...] = (ValueError,)


class Payload:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (write_marker_code(),)


def write_marker_code() -> str:
    """Returns Python code, one expression, that leaves the marker."""
    return f"open(__import__('os').environ['{MARKER}'], 'w').close()"


def marker() -> Path:
    """Returns the file that planted code writes."""
    return Path(os.environ[MARKER])


def peak_bytes(act: Callable[[], Any]) -> int:
    """Returns by how much the process's memory grew at its highest while something ran, whatever it raised."""
    Path("/proc/self/clear_refs").write_text("5")
    before = _memory("VmRSS")
    try:
        act()
    except Exception as error:  # what matters is the memory that was taken on the way
        str(error)
    return _memory("VmHWM") - before


def _memory(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


def no_op(*args: Any, **kwargs: Any) -> None:
    """Stands in for a guard that is taken out."""

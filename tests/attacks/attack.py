"""Definition of an attack, and the means to detect whether it did harm."""

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
    """One malicious file, folder or option.

    Attributes:
        name: name of the attack.
        plant: writes it into an empty folder, and returns the arguments of `guarded` and `unguarded`.
        guarded: the project's handling of it; must raise.
        message: regular expression that the error matches.
        unguarded: the same with the guard removed; must return a true value if harm was done.
        errors: exception types that reject it.
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
    """Returns Python code, one expression, that writes the marker file."""
    return f"open(__import__('os').environ['{MARKER}'], 'w').close()"


def marker() -> Path:
    """Returns the file that planted code writes."""
    return Path(os.environ[MARKER])


def peak_bytes(act: Callable[[], Any]) -> int:
    """Returns the peak growth of the process's memory while a function runs, even if it raises."""
    Path("/proc/self/clear_refs").write_text("5")
    before = _memory("VmRSS")
    try:
        act()
    except Exception as error:  # only the memory allocated on the way matters
        str(error)
    return _memory("VmHWM") - before


def _memory(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


def no_op(*args: Any, **kwargs: Any) -> None:
    """Replaces a guard that is removed."""

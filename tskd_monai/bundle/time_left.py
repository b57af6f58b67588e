"""Elapsed time and time left of a run of several stages.

What each stage is expected to take is known only up to a factor, the speed of the machine. The factor is measured:
from the stages that have finished, and from the progress bar of the stage that runs.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping

STEPS = re.compile(r"\[(?P<elapsed>[\d:]+)<(?P<left>[\d:]+), .*step")
"""State of a training stage's progress bar; the bars of short tasks count other units."""

FEWEST_SECONDS = 5.0
"""Age of a progress bar whose speed is used."""

MINUTE, HOUR = 60, 3600


class TimeLeft:
    """Estimates the time left of a run.

    Args:
        expected: stage -> seconds that it would take on some machine, all of the same one; empty: no estimate.
        measured: stage -> seconds that a finished stage took on this machine, from an earlier call.
    """

    def __init__(self, expected: Mapping[str, float], measured: Mapping[str, float] | None = None) -> None:
        self._expected = {name: seconds for name, seconds in expected.items() if seconds > 0}
        self._measured = {name: seconds for name, seconds in (measured or {}).items() if name in self._expected}
        self._started = time.monotonic()

    def measure(self, name: str, seconds: float) -> None:
        """Records what a whole stage took."""
        if name in self._expected:
            self._measured[name] = seconds

    def elapsed(self) -> float:
        """Returns the seconds since the start."""
        return time.monotonic() - self._started

    def left(self, names: Iterable[str]) -> float | None:
        """Returns the seconds that stages will take; None before anything was measured.

        Args:
            names: stages that have not started.
        """
        return _scaled(self._expected, self._measured, names)

    def left_with(self, bar: str, running: str, seconds: float, names: Iterable[str]) -> float | None:
        """Returns the seconds left while a stage runs; None if its progress bar does not count training steps.

        Args:
            bar: the line of its progress bar.
            running: the stage.
            seconds: time since its start, which the bar does not include.
            names: stages that follow it.
        """
        steps = STEPS.search(bar)
        if steps is None or _seconds(steps["elapsed"]) < FEWEST_SECONDS:
            return None
        left = _seconds(steps["left"])
        later = _scaled(self._expected, {**self._measured, running: seconds + left}, names)
        return None if later is None else left + later


def _scaled(expected: Mapping[str, float], measured: Mapping[str, float], names: Iterable[str]) -> float | None:
    known = measured.keys() & expected.keys()
    if not known or not set(names := list(names)) <= expected.keys():
        return None
    factor = sum(measured[name] for name in known) / sum(expected[name] for name in known)
    return factor * sum(expected[name] for name in names)


def about(seconds: float) -> str:
    """Returns a duration as a person would say it: `about 40 s`, `about 12 min`, `about 1 h 20 min`."""
    if seconds < 1.5 * MINUTE:
        return f"about {max(10, 10 * round(seconds / 10))} s"
    if seconds < HOUR:
        return f"about {round(seconds / MINUTE)} min"
    minutes = 10 * round(seconds / MINUTE / 10)
    return f"about {minutes // 60} h {minutes % 60} min"


def clock(seconds: float) -> str:
    """Returns a duration as `0:07`, `12:30` or `1:02:03`."""
    minutes, rest = divmod(int(seconds), MINUTE)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _seconds(text: str) -> int:
    """Returns the seconds of a duration of a progress bar, such as `01:05` or `1:00:05`."""
    total = 0
    for part in text.split(":"):
        total = 60 * total + int(part)
    return total

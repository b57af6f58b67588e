"""Runs of a bundle as forks of a process that has imported everything: a start takes a second instead of ten.

The child leads a process group of its own; it can be killed after some seconds or before a file event.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import monai.bundle  # noqa: F401  # imported by the parent, so that its children have it
from tqdm import tqdm

from tskd_monai.bundle.run import BundleRun

FILE_EVENTS = frozenset({"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"})


@dataclass(frozen=True)
class Moment:
    """When a run is killed: after some seconds, or before its n-th file event, counted from 1.

    A file event is the opening, renaming or removal of a file in the output folder: a kill could do damage then.
    """

    seconds: float | None = None
    file_event: int | None = None


@dataclass(frozen=True)
class Ending:
    """How a run ended.

    Attributes:
        code: exit code, negative for the signal that ended it.
        seconds: duration.
        file_events: number in the output folder; None if it was killed.
        log: standard output and error.
    """

    code: int
    seconds: float
    file_events: int | None
    log: str

    @property
    def killed(self) -> bool:
        """Whether it was killed by SIGKILL."""
        return self.code == -signal.SIGKILL


def run_in_child(
    run: BundleRun, log: Path, moment: Moment | None = None, prepare: Callable[[], None] | None = None
) -> Ending:
    """Returns how a run in a child process ended.

    Args:
        run: run to start.
        log: file for the child's standard output and error.
        moment: moment of the kill of the child and all its processes; None: it runs to its end.
        prepare: called in the child before the run.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    events, started = log.with_suffix(".events"), time.monotonic()
    events.unlink(missing_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _be_child(run, log, events, moment, prepare)
    if moment is not None and moment.seconds is not None and not _ended_within(child, moment.seconds):
        os.killpg(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    counted = int(events.read_text()) if events.is_file() else None
    return Ending(code, time.monotonic() - started, counted, log.read_text(errors="replace"))


def _ended_within(child: int, seconds: float) -> bool:
    descriptor = os.pidfd_open(child)
    try:
        return bool(select.select([descriptor], [], [], seconds)[0])
    finally:
        os.close(descriptor)


def _be_child(
    run: BundleRun, log: Path, events: Path, moment: Moment | None, prepare: Callable[[], None] | None
) -> None:
    """Runs and ends this process; nothing returns to the parent's code."""
    code = 1
    try:
        os.setsid()
        with log.open("wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        # The parent's would be shared by all its children, and stay locked if one is killed while holding it.
        tqdm.set_lock(threading.RLock())
        counted = _count_file_events(run.output_dir, None if moment is None else moment.file_event)
        if prepare is not None:
            prepare()
        run.run_here()
        events.write_text(str(counted[0]))
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _count_file_events(folder: Path, fatal: int | None) -> list[int]:
    """Returns a list with the number of file events in a folder so far; the group is killed before the fatal one."""
    counted, beginning, own = [0], str(folder), os.getpid()

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        if event in FILE_EVENTS and str(arguments[0]).startswith(beginning) and os.getpid() == own:
            counted[0] += 1
            if counted[0] == fatal:
                os.killpg(own, signal.SIGKILL)

    sys.addaudithook(count)
    return counted

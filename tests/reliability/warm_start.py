"""Runs of a bundle as children of a process that has imported everything: a start costs a second instead of ten.

The child is a process of its own, at the head of a group of its own; it can be killed at a second or at a file event.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import monai.bundle
from tqdm import tqdm

FILE_EVENTS = frozenset({"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"})


@dataclass(frozen=True)
class BundleRun:
    """One call of MONAI's bundle runner.

    Attributes:
        bundle: folder of the bundle.
        configs: names of its config files, later ones override.
        overrides: of config ids.
        output_dir: of the run.
    """

    bundle: Path
    configs: Sequence[str]
    overrides: Mapping[str, Any]
    output_dir: Path

    def __call__(self) -> None:
        """Runs in this process, as `python -m monai.bundle run` does."""
        files = [str(self.bundle / "configs" / name) for name in self.configs]
        options = {**self.overrides, "output_dir": str(self.output_dir)}
        monai.bundle.run(bundle_root=str(self.bundle), config_file=files, **options)


@dataclass(frozen=True)
class Moment:
    """When a run is killed: after some seconds, or before its n-th file event, counted from 1.

    A file event is an opening, a moving or a removing in the output folder, which is when a kill could do damage.
    """

    seconds: float | None = None
    file_event: int | None = None


@dataclass(frozen=True)
class Ending:
    """How a run ended.

    Attributes:
        code: exit code, negative for the signal that ended it.
        seconds: it took.
        file_events: in the output folder; None when it was killed.
        log: what it wrote to standard output and error.
    """

    code: int
    seconds: float
    file_events: int | None
    log: str

    @property
    def killed(self) -> bool:
        """Whether SIGKILL ended it."""
        return self.code == -signal.SIGKILL


def run_in_child(
    run: BundleRun, log: Path, moment: Moment | None = None, prepare: Callable[[], None] | None = None
) -> Ending:
    """Returns how a run in a child process ended.

    Args:
        run: to do.
        log: file for the child's standard output and error.
        moment: of the kill of the child and all its processes; None: it runs to its end.
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
    """Does the run and ends this process; nothing returns to the parent's code."""
    code = 1
    try:
        os.setsid()
        with log.open("wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        # The parent's would be shared by all its children, and stay locked after the kill of one that held it.
        tqdm.set_lock(threading.RLock())
        counted = _count_file_events(run.output_dir, None if moment is None else moment.file_event)
        if prepare is not None:
            prepare()
        run()
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
    """Returns a list with the number of file events in a folder so far; before the fatal one the group is killed."""
    counted, beginning, own = [0], str(folder), os.getpid()

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        if event in FILE_EVENTS and str(arguments[0]).startswith(beginning) and os.getpid() == own:
            counted[0] += 1
            if counted[0] == fatal:
                os.killpg(own, signal.SIGKILL)

    sys.addaudithook(count)
    return counted

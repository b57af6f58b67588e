"""A separate process for the parser, monitored for time and memory, and restarted when it dies."""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.reliability.subject import OFFENDER, Answer, Subject, Trials, quiet

STARTING_SECONDS = 300
"""Seconds for imports and the valid inputs, before the first result."""
MB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Limits of a parser for one input.

    Attributes:
        seconds: maximum duration.
        memory_mb: maximum resident memory of the whole process. Its address space may grow by twice as much, so that no
            more can be allocated before it is measured.
    """

    seconds: float = 10
    memory_mb: int = 2048


LIMITS = Limits()
READY = "ready"
HANG, DEATH, MEMORY = FATAL = ("Hang", "Death", "Memory")
"""Offences that end a worker."""

Reply = tuple[int, Answer, float]
"""Number of the input, the parser's outcome, peak of resident memory so far in MB."""


def run_parser(find: Callable[[], Subject], seed: int, inputs: int, limits: Limits = LIMITS) -> Iterator[Reply]:
    """Yields the outcome of each input of a parser.

    A worker that hangs on an input, or dies of it, counts as an offender, and a new one continues with the next input.
    A first hang on an input is retried once: on a busy machine a process may stall for a while.

    Args:
        find: returns the parser; it is called in the worker.
        seed: seed of the mutations.
        inputs: number of inputs.
        limits: limits of each input.
    """
    done, stalled = 0, -1
    while done < inputs:
        for index, result, peak_mb in _run_worker(find, seed, range(done, inputs), limits):
            if result.error == HANG and stalled != index:
                stalled = index
                break
            yield index, result, peak_mb
            done = index + 1


def _run_worker(find: Callable[[], Subject], seed: int, wanted: range, limits: Limits) -> Iterator[Reply]:
    """Yields the outcomes of these inputs until there are no more or the worker is gone."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as scratch:
        worker = context.Process(target=_work, args=(sender, find, seed, wanted, limits, scratch), daemon=True)
        worker.start()
        sender.close()
        try:
            if not _is_ready(receiver):
                raise RuntimeError("The parser failed before the first input; its error is above.")
            for index in wanted:
                reply = _reply(receiver, worker, index, limits.seconds)
                yield reply
                if reply[1].error in FATAL:
                    return
        finally:
            worker.kill()
            worker.join()


def _is_ready(receiver: Connection) -> bool:
    """Whether the worker has imported the parser, and the parser reads its valid inputs."""
    try:
        return receiver.poll(STARTING_SECONDS) and receiver.recv() == READY
    except EOFError:
        return False


def _reply(receiver: Connection, worker: BaseProcess, index: int, seconds: float) -> Reply:
    """Returns the worker's outcome on an input, or what happened to the worker instead."""
    if not receiver.poll(seconds):
        return index, Answer(OFFENDER, HANG, f"no result in {seconds} s", seconds), 0.0
    try:
        reply: Reply = receiver.recv()
    except EOFError:
        worker.join()
        return index, Answer(OFFENDER, DEATH, f"exit code {worker.exitcode}", 0.0), 0.0
    return reply


def _work(
    sender: Connection, find: Callable[[], Subject], seed: int, wanted: range, limits: Limits, scratch: str
) -> None:
    """Processes inputs in a separate process; the first message states that it is ready."""
    quiet()
    trials = Trials(find(), Path(scratch) / "inputs", seed)
    trials.require_valid()
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())  # decoders in C write there
    resource.setrlimit(resource.RLIMIT_AS, (_address_space() + 2 * limits.memory_mb * MB,) * 2)
    sender.send(READY)
    for index in wanted:
        result = trials.attempt(trials.mutant(index))
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        if peak_mb > limits.memory_mb:  # which never falls again: a new worker continues
            result = Answer(OFFENDER, MEMORY, f"{peak_mb:.0f} MB; {result.error} {result.message}", result.seconds)
        sender.send((index, result, peak_mb))


def _address_space() -> int:
    """Returns the size of this process's address space in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * os.sysconf("SC_PAGE_SIZE")

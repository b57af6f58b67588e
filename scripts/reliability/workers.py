"""A process of its own for the parser, watched for time and memory, and started again when it dies."""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
import tempfile
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

from subject import OFFENDER, Answer, Trials, quiet

LIMIT_SECONDS = 10
LIMIT_MB = 2048
STARTING_SECONDS = 300
"""For imports and the valid inputs, before the first answer."""
SPARE_MB = 2 * LIMIT_MB
"""Address space above what the process has: a worker cannot take the machine down before its memory is measured."""

MB = 1 << 20
Reply = tuple[int, Answer, float]
"""Number of the input, what the parser said, peak of resident memory so far in MB."""


def run_parser(name: str, seed: int, inputs: int) -> Iterator[Reply]:
    """Yields the answer to each input of a parser.

    A worker that hangs on an input, or dies of it, gives an offender, and a new one goes on with the next input.

    Args:
        name: of the parser.
        seed: of the mutations.
        inputs: how many.
    """
    done = 0
    while done < inputs:
        for index, answer, peak_mb in _run_worker(name, seed, done, inputs):
            yield index, answer, peak_mb
            done = index + 1


def _run_worker(name: str, seed: int, first: int, inputs: int) -> Iterator[Reply]:
    """Yields answers from input `first` on until there are no more or the worker is gone."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as scratch:
        worker = context.Process(target=_work, args=(sender, name, seed, first, inputs, scratch), daemon=True)
        worker.start()
        sender.close()
        index, limit, started = first, STARTING_SECONDS, False
        try:
            while index < inputs:
                if not receiver.poll(limit):
                    yield index, Answer(OFFENDER, "Hang", f"no answer in {limit} s", float(limit)), 0.0
                    return
                try:
                    reply: Reply | None = receiver.recv()
                except EOFError:
                    worker.join()
                    if not started:
                        raise RuntimeError(f"The parser {name} failed before the first input; see above.") from None
                    yield index, Answer(OFFENDER, "Death", f"exit code {worker.exitcode}", 0.0), 0.0
                    return
                limit, started = LIMIT_SECONDS, True
                if reply is not None:
                    yield reply
                    index = reply[0] + 1
                    if reply[2] > LIMIT_MB:
                        return  # the peak never falls again
        finally:
            worker.kill()
            worker.join()


def _work(sender: Connection, name: str, seed: int, first: int, inputs: int, scratch: str) -> None:
    """Answers inputs in a process of its own; the first message, None, says that it is ready."""
    from parsers import parser_named

    quiet()
    trials = Trials(parser_named(name), Path(scratch) / "inputs", seed)
    trials.require_valid()
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())  # decoders in C write there
    resource.setrlimit(resource.RLIMIT_AS, (_address_space() + SPARE_MB * MB,) * 2)
    sender.send(None)
    for index in range(first, inputs):
        answer = trials.attempt(trials.mutant(index))
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        if peak_mb > LIMIT_MB:
            answer = Answer(OFFENDER, "Memory", f"{peak_mb:.0f} MB; {answer.error} {answer.message}", answer.seconds)
        sender.send((index, answer, peak_mb))


def _address_space() -> int:
    """Returns the size of this process's address space in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * os.sysconf("SC_PAGE_SIZE")

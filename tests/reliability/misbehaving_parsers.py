"""Parsers that each violate one rule, for a test of the harness that detects violations."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from tests.reliability.subject import Case, Subject, require


def _subject(act: Callable[[bytes], object]) -> Subject:
    def write(folder: Path) -> list[Case]:
        (folder / "input.bin").write_bytes(b"valid")
        return [Case(folder, ("input.bin",))]

    def read(folder: Path) -> None:
        content = (folder / "input.bin").read_bytes()
        if content != b"valid":
            act(content)

    return Subject("misbehaving", 3, write, read)


def refuses() -> Subject:
    """Refuses every change as documented."""

    def act(content: bytes) -> None:
        raise ValueError("Expected a valid input.bin, found another.")

    return _subject(act)


def names_no_file() -> Subject:
    """Rejects with an error that does not name the file."""

    def act(content: bytes) -> None:
        raise ValueError("wrong content")

    return _subject(act)


def raises_a_subclass() -> Subject:
    """Lets an error of a library through."""
    return _subject(lambda content: "input.bin" + (content + b"\xff").decode())


def breaks_its_word() -> Subject:
    """Returns a value outside its contract."""
    return _subject(lambda content: require(False, "input.bin was read"))


def hangs() -> Subject:
    """Hangs forever."""
    return _subject(lambda content: time.sleep(60))


def dies() -> Subject:
    """Crashes its process."""
    return _subject(lambda content: os._exit(3))


def takes_memory() -> Subject:
    """Allocates and touches 300 MB."""

    def act(content: bytes) -> None:
        pages = bytearray(300 << 20)
        pages[::4096] = b"x" * len(range(0, len(pages), 4096))

    return _subject(act)


def asks_for_too_much() -> Subject:
    """Requests more memory than there is."""
    return _subject(lambda content: bytearray(1 << 45))

"""The terminal during a bundle's run: messages of this project and one progress bar; everything else is in the log.

Libraries speak while they are imported and used: of deprecations, decoders, the security of configs. A person who waits
for a stage needs to know how far it is, and what this project warns of.
"""

from __future__ import annotations

import re
from typing import IO, TextIO

MESSAGE = re.compile(r"^\S+ \S+ (INFO|WARNING|ERROR) tskd_monai[\w.]*: (?P<text>.*)$")
"""A line of the format in each bundle's `logging.conf`."""

BAR = re.compile(r"^(?P<title>[^|]{1,60}):?\s+\d+%\|")
ENDINGS = re.compile(rb"[\r\n]")
CHUNK = 1 << 12


def copy_output(output: IO[bytes], log: IO[bytes], shown: TextIO) -> None:
    """Copies what a process writes into its log, and what a person wants to know onto the terminal, until it ends.

    Args:
        output: pipe of the process.
        log: file for everything.
        shown: terminal; a progress bar is drawn where it is one, and left out where it is a file.
    """
    view, pending = _View(shown), b""
    while chunk := output.read1(CHUNK):  # type: ignore[attr-defined]  # a buffered reader
        log.write(chunk)
        log.flush()
        *lines, pending = ENDINGS.split(pending + chunk)
        for line in lines:
            view.show(line.decode("utf-8", errors="replace"))
    view.end()


class _View:
    """What is on the terminal: lines, and at most one bar below them."""

    def __init__(self, shown: TextIO) -> None:
        self._shown = shown
        self._width = 0

    def show(self, line: str) -> None:
        """Shows a line, if it is a message of this project or the state of a bar."""
        if message := MESSAGE.match(line):
            self._clear()
            self._write(f"    {message['text']}\n")
        elif BAR.match(line) and self._shown.isatty():
            text = f"    {line.rstrip()}"
            self._write("\r" + text.ljust(self._width))
            self._width = len(text)

    def end(self) -> None:
        """Removes the bar: the stage's last line says what has become of it."""
        self._clear()

    def _clear(self) -> None:
        if self._width:
            self._write("\r" + " " * self._width + "\r")
            self._width = 0

    def _write(self, text: str) -> None:
        self._shown.write(text)
        self._shown.flush()

"""The terminal during a bundle's run: warnings of this project and one progress bar; everything else is in the log.

Libraries report while they are imported and used: deprecations, decoders, the security of configs. A person who waits
for a stage needs to know how far it is, and what this project warns of.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from typing import IO, TextIO

MESSAGE = re.compile(r"\d{4}-\d\d-\d\d \S+ (?P<level>INFO|WARNING|ERROR) tskd_monai[\w.]*: (?P<text>.*)$")
"""The end of a line in the format of each bundle's `logging.conf`; it may follow a progress bar."""

BAR = re.compile(r"^(?P<title>[^|]{1,60}):?\s+\d+%\|")
ENDINGS = re.compile(rb"[\r\n]")
CHUNK = 1 << 12


def copy_output(output: IO[bytes], log: IO[bytes], shown: TextIO, described: Callable[[str], str] = str) -> None:
    """Copies what a process writes into its log, and what a person wants to know onto the terminal, until it ends.

    Args:
        output: pipe of the process.
        log: file for everything.
        shown: terminal; a progress bar is drawn where it is one, and left out where it is a file.
        described: returns what the terminal shows of a progress bar.
    """
    view, pending = _View(shown, described), b""
    while chunk := output.read1(CHUNK):  # type: ignore[attr-defined]  # a buffered reader
        log.write(chunk)
        log.flush()
        *lines, pending = ENDINGS.split(pending + chunk)
        for line in lines:
            view.show(line.decode("utf-8", errors="replace"))
    view.end()


class _View:
    """What is on the terminal: warnings, and below them one line with a progress bar or the latest message."""

    def __init__(self, shown: TextIO, described: Callable[[str], str]) -> None:
        self._shown, self._described = shown, described
        self._width = 0

    def show(self, line: str) -> None:
        """Shows a line, if it is a message of this project or the state of a bar."""
        if message := MESSAGE.search(line):
            if message["level"] == "INFO":
                self._show_last(message["text"])
            else:
                self._clear()
                self._write(f"    {message['text']}\n")
        elif BAR.match(line):
            self._show_last(self._described(line.rstrip()))

    def _show_last(self, text: str) -> None:
        """Replaces the last line of a terminal, in its width."""
        if self._shown.isatty():
            text = f"    {text}"[: shutil.get_terminal_size().columns - 1]
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

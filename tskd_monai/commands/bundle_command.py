"""Runs a bundle for a command of `tskd`: the runner's command line is shown and recorded, its messages are filtered.

A command is a thin wrapper around one call of MONAI's bundle runner. The command line is printed and appended to
`commands.txt` in the output folder; pasted into a shell, it does the same.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tskd_monai.bundle.run import BundleRun

LOG_FILE = "log.txt"
OWN_LOGGER = "tskd_monai"


def run_bundle(run: BundleRun, part: str = "") -> None:
    """Runs a bundle in this process; prints the equivalent command line and records it in the output folder.

    Messages of this project go to the terminal; those of the libraries, with everything else, to `log.txt` in the
    output folder.

    Args:
        run: run of the bundle.
        part: name of a part of the run, which has files of its own: `log.3-of-8.txt`, `commands.3-of-8.txt`.

    Raises:
        OSError: if the output folder is not writable.
        ValueError: if an option is rejected, or a component of the config rejects its input.
        RuntimeError: if cases failed; names each with the reason.
    """
    record_line(run.output_dir, run.shell_line(), part)
    with sorted_messages(run.output_dir / part_name(LOG_FILE, part)):
        run.run_here(logging_file=False)


def part_name(name: str, part: str) -> str:
    """Returns the name of a file of one part of a run, such as `log.3-of-8.txt`; unchanged for the whole run."""
    return f"{Path(name).stem}.{part}{Path(name).suffix}" if part else name


def record_line(output_dir: Path, line: str, part: str = "") -> None:
    """Prints the command line that a command stands for, and appends it to `commands.txt` in the output folder.

    Raises:
        OSError: if the output folder is not writable.
    """
    from tskd_monai.bundle.run import COMMANDS_FILE, append_command  # torch takes seconds to import

    output_dir.mkdir(parents=True, exist_ok=True)
    append_command(output_dir, line, part_name(COMMANDS_FILE, part))
    print(f"$ {line}", flush=True)


@contextmanager
def sorted_messages(log: Path, shown: logging.Handler | None = None) -> Iterator[None]:
    """Sends messages of this project to the terminal, and all messages and warnings to a file.

    Args:
        log: the file.
        shown: handler of this project's messages instead of the terminal.
    """
    import_module("monai.bundle")  # its loggers write to the terminal from their import on
    file = logging.FileHandler(log, encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    if shown is None:
        shown = logging.StreamHandler(sys.stderr)
        shown.setFormatter(logging.Formatter("%(message)s"))
    root, own = logging.getLogger(), logging.getLogger(OWN_LOGGER)
    chatty = [logging.getLogger(name) for name in logging.root.manager.loggerDict if name.startswith("monai.")]
    before = [(logger, logger.handlers, logger.level) for logger in (root, own, *chatty)]
    for logger in (root, *chatty):
        logger.handlers = [file] if logger.handlers or logger is root else []
    own.handlers = [shown]
    for logger in (root, own):
        logger.setLevel(logging.INFO)
    logging.captureWarnings(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            yield
    finally:
        logging.captureWarnings(False)
        for logger, handlers, level in before:
            logger.handlers = handlers
            logger.setLevel(level)
        file.close()


def plain_messages() -> None:
    """Sends messages to the terminal as plain lines, without the notice of a GPU decoder that no command asks for."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)

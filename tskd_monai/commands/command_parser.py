"""The parser that every command of `tskd` uses: options in full, errors in one line, completion in the shell."""

from __future__ import annotations

import argparse
import os
import re
import sys
import textwrap
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

OPTION = re.compile(r"--?[^\W\d]")
"""An option, not a negative number."""
RAW = re.compile(r"^(?:tskd |  )", re.MULTILINE)
"""Lines that the help shows as they are: examples, and indented ones."""
LABELS_HELP = "names of a folder's labels: liver,spleen or liver=1,spleen=4"
COMPLETION = "_ARGCOMPLETE"
"""Environment variable that the shell's completion sets: the number of the word with the program's name."""


class CommandParser(argparse.ArgumentParser):
    """An argument parser without abbreviations of options; an unknown option ends with the nearest known one.

    Args:
        command: name of the command; None: `tskd` itself.
        description: text of the help, with an example that begins with `tskd`.
        usage: usage in one line; None: the positional arguments.
    """

    def __init__(self, command: str | None, description: str | None, usage: str | None = None) -> None:
        super().__init__(
            prog=" ".join(filter(None, ("tskd", command))),
            usage=usage,
            description=description,
            formatter_class=_HelpFormatter,
            allow_abbrev=False,
        )
        if command is not None:
            self.add_argument("--debug", action="store_true", help=argparse.SUPPRESS)

    def add_argument(self, *names: Any, **options: Any) -> argparse.Action:
        """Adds an option, or a positional argument, which texts name in capitals."""
        if not names[0].startswith("-"):
            options.setdefault("metavar", names[0].upper())
        return super().add_argument(*names, **options)

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Returns the parsed command line, or completes the last word of the shell's."""
        if COMPLETION in os.environ:
            import argcomplete

            argcomplete.autocomplete(self, always_complete_options=False)
        given = list(sys.argv[1:] if args is None else args)
        words = given[: given.index("--")] if "--" in given else given
        for option in (word.partition("=")[0] for word in words if OPTION.match(word)):
            if option not in self._option_string_actions:
                self.error(f"unknown option {option}{nearest(option, self._option_string_actions)}")
        return super().parse_args(given, namespace)

    def error(self, message: str) -> NoReturn:
        """Ends the program with exit code 2 and one line."""
        end = "" if message.endswith((".", "?")) else "."
        self.exit(2, f"{self.prog}: error: {message}{end} See {self.prog} --help\n")


def nearest(word: str, known: Iterable[str]) -> str:
    """Returns `; did you mean …?` with the known word that is most like the given one, or nothing."""
    known = list(known)
    like = get_close_matches(word, known, n=1) or [name for name in known if name.startswith(word)]
    return f"; did you mean {like[0]}?" if like else ""


def output_folder(text: str) -> Path:
    """Returns the path of a folder that can be written to, or made: the type of `--output-dir`.

    Raises:
        ArgumentTypeError: if it is a file, or in one, or nothing may be written there.
    """
    path = Path(text)
    existing = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    if not existing.is_dir():
        raise argparse.ArgumentTypeError(f"expected a folder, found {path}, where {existing.name} is a file")
    if not os.access(existing, os.W_OK):
        raise argparse.ArgumentTypeError(
            f"expected a folder that can be written to, found {path}, without permission for {existing}; choose "
            "another one"
        )
    return path


class _HelpFormatter(argparse.HelpFormatter):
    """Shows only positional arguments in the usage, and fills paragraphs but those with examples or indented lines."""

    def __init__(self, prog: str) -> None:
        super().__init__(f"{prog} [options]", max_help_position=28)

    def add_usage(self, usage: Any, actions: Iterable[argparse.Action], groups: Any, prefix: str | None = None) -> None:
        """Adds the usage without options."""
        super().add_usage(usage, [action for action in actions if not action.option_strings], [], prefix)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = text.strip().split("\n\n")
        return "\n\n".join(text if RAW.search(text) else textwrap.fill(text, width) for text in paragraphs)

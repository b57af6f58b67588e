"""What commands that run a student have in common: the argument STUDENT, and `--engine`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tskd_monai.commands.command_parser import CommandParser

SHIPPED = "shipped"
"""Name of the student that the package contains."""


def add_student(parser: CommandParser) -> None:
    """Adds the argument to a parser; the shell completes it."""
    student = parser.add_argument("student", help=f"folder of a student bundle, or `{SHIPPED}`")
    student.completer = _complete  # type: ignore[attr-defined]


def add_engine(parser: CommandParser) -> None:
    """Adds the option `--engine` to a parser."""
    engines = ("auto", "torch", "onnxruntime", "openvino")
    parser.add_argument("--engine", choices=engines, default="auto", help="what runs the network (default: auto)")


def student_folder(name: str) -> Path:
    """Returns the folder of a student bundle.

    Raises:
        FileNotFoundError: if it does not exist.
    """
    from tskd_monai.files.shipped import BUNDLES

    folder = BUNDLES / "segmentation" if name == SHIPPED else Path(name).resolve()
    if not (folder / "models" / "model.pt").is_file():
        raise FileNotFoundError(
            f"Expected a student at {name}, found no models/model.pt there; give the folder that `tskd train` calls "
            f"student, or `{SHIPPED}`."
        )
    return folder


def _complete(prefix: str, **_: object) -> Iterator[str]:
    """Yields the names that complete the argument's beginning."""
    from argcomplete.completers import DirectoriesCompleter

    yield SHIPPED
    yield from DirectoriesCompleter()(prefix)

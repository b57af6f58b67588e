"""The command `tskd`: modules of a command are imported when it is called, slow packages after option parsing."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from tskd_monai import __version__
from tskd_monai.commands.command_parser import COMPLETION, CommandParser, nearest

FAILED, INVALID, INTERRUPTED = 1, 2, 130
"""Exit codes of a command that failed, of an invalid command line, and of an interrupted command."""

REGISTRATION = 'eval "$(register-python-argcomplete tskd)"'
"""Makes bash and zsh complete `tskd`."""

COMMANDS = {
    "doctor": ("doctor", "describe this machine and installation, and what is missing"),
    "demo": ("demo", "run the whole method on the embedded phantom dataset"),
    "check": ("check", "check a dataset before hours are spent: content, outliers, what training would refuse"),
    "plan": ("plan", "write task.json and a checked datalist from a datalist"),
    "train": ("train.command", "train the teacher, the diffusion model and the student, and report"),
    "extend": ("extend", "add structures to a student, from cases in which perhaps only these were drawn"),
    "curve": ("curve.command", "tell from the labels at hand what more of them would bring"),
    "segment": ("segment", "segment volumes, 2D images and DICOM series with a student"),
    "evaluate": ("evaluate", "segment the cases of a dataset, score them and report"),
    "label": ("label", "serve a student to 3D Slicer and OHIF with MONAI Label"),
    "annotate": ("annotate", "turn boxes in 3D Slicer or OHIF into labels, and these into a student"),
    "teachers": ("teachers", "list the foundation models that a teacher can be made of"),
    "datasets": ("datasets", "turn the download of a public dataset into a datalist"),
    "phantom": ("phantom", "write the embedded phantom dataset"),
    "export": ("export", "export a student to ONNX, OpenVINO, the MONAI Model Zoo or the Hugging Face hub"),
    "audit": ("audit", "list the code that a bundle would run and that is not on the allow-list"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command named by the first argument; returns its exit code.

    Args:
        argv: arguments after `tskd`; None: those of the process.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = command_line()
    name = command_to_complete()
    if name is None:
        if not arguments and COMPLETION not in os.environ:
            parser.print_help(sys.stderr)
            return INVALID
        if arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
            parser.error(f"unknown command {arguments[0]}{nearest(arguments[0], COMMANDS)}")
        name = parser.parse_args(arguments[:1]).command
    module = import_module(f"tskd_monai.commands.{COMMANDS[name][0]}")
    try:
        return int(module.main(arguments[1:]) or 0)
    except KeyboardInterrupt:
        sys.stderr.write("\nInterrupted. Run the same command to resume.\n")
        return INTERRUPTED
    except Exception as error:
        from tskd_monai.bundle.options import user_error

        reason = user_error(error)
        if "--debug" in arguments or reason is None:
            raise
        sys.stderr.write(f"tskd {name}: error: {' '.join(str(reason).splitlines())}\n")
        return FAILED


def command_line() -> CommandParser:
    """Returns the parser of the first argument."""
    listed = "\n".join(f"  {name:<10}{text}" for name, (_, text) in COMMANDS.items())
    parser = CommandParser(
        None,
        f"Commands:\n{listed}\n\n"
        "Any command:\n"
        "  tskd COMMAND --help      its options, and an example\n"
        "  tskd COMMAND … --debug   the traceback of an error\n\n"
        f"Completion with Tab in this shell:\n  {REGISTRATION}",
        usage="tskd COMMAND [options]",
    )
    parser.add_argument("--version", action="version", version=f"tskd {__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help=argparse.SUPPRESS)
    return parser


def command_to_complete() -> str | None:
    """Returns the command whose options or arguments the shell wants to complete; None: the command itself, or none.

    Its parser then completes the line after the command.
    """
    if COMPLETION not in os.environ:
        return None
    from argcomplete import split_line

    program = int(os.environ[COMPLETION])
    words = split_line(os.environ["COMP_LINE"], int(os.environ["COMP_POINT"]))[3][program:]
    if not words or words[0] not in COMMANDS:
        return None
    os.environ[COMPLETION] = str(program + 1)
    return str(words[0])

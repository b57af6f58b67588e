"""The command `tskd`: what a command needs is imported when it is called, slow packages once its options are parsed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from tskd_monai import __version__

COMMANDS = {
    "plan": ("plan", "write task.json and a checked datalist from a datalist"),
    "train": ("train.command", "train the teacher, the diffusion model and the student, and report"),
    "datasets": ("datasets", "turn the download of a public dataset into a datalist"),
    "phantom": ("phantom", "write the embedded phantom dataset"),
    "export": ("export", "write the graphs of ONNX Runtime and OpenVINO into a student bundle"),
    "zoo": ("zoo", "export a bundle with its code for the MONAI Model Zoo"),
    "hub": ("hub", "push an exported bundle to the Hugging Face hub"),
    "audit": ("audit", "list the code that a bundle would run and that is not on the allow-list"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names; return its exit code.

    Args:
        argv: the arguments behind `tskd`; None: those of the process.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    listed = "\n".join(f"  {name:<10}{text}" for name, (_, text) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="tskd",
        usage="tskd COMMAND [options]",
        description=f"Commands:\n{listed}\n\nOptions of one: tskd COMMAND --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"tskd {__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help=argparse.SUPPRESS)
    name = parser.parse_args(arguments[:1]).command
    module = import_module(f"tskd_monai.commands.{COMMANDS[name][0]}")
    return int(module.main(arguments[1:]) or 0)

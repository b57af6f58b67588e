"""The command `tskd`: modules of a command are imported when it is called, slow packages after option parsing."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from tskd_monai import __version__

FAILED, INTERRUPTED = 1, 130
"""Exit codes; 2, from argparse, is an invalid command line."""

COMMANDS = {
    "doctor": ("doctor", "describe this machine and installation, and what is missing"),
    "demo": ("demo", "run the whole method on the embedded phantom dataset"),
    "check": ("check", "check a dataset before hours are spent: content, outliers, what training would refuse"),
    "plan": ("plan", "write task.json and a checked datalist from a datalist"),
    "train": ("train.command", "train the teacher, the diffusion model and the student, and report"),
    "segment": ("segment", "segment volumes, 2D images and DICOM series with a student"),
    "evaluate": ("evaluate", "segment the cases of a dataset, score them and report"),
    "label": ("label", "serve a student to 3D Slicer and OHIF with MONAI Label"),
    "teachers": ("teachers", "list the foundation models that a teacher can be made of"),
    "datasets": ("datasets", "turn the download of a public dataset into a datalist"),
    "phantom": ("phantom", "write the embedded phantom dataset"),
    "export": ("export", "write the graphs of ONNX Runtime and OpenVINO into a student bundle"),
    "zoo": ("zoo", "export a bundle with its code for the MONAI Model Zoo"),
    "hub": ("hub", "push an exported bundle to the Hugging Face hub"),
    "audit": ("audit", "list the code that a bundle would run and that is not on the allow-list"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command named by the first argument; returns its exit code.

    Args:
        argv: arguments after `tskd`; None: those of the process.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    listed = "\n".join(f"  {name:<10}{text}" for name, (_, text) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="tskd",
        usage="tskd COMMAND [options]",
        description=f"Commands:\n{listed}\n\nOptions of a command: tskd COMMAND --help. "
        "With --debug, an error prints its traceback.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"tskd {__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help=argparse.SUPPRESS)
    name = parser.parse_args(arguments[:1]).command
    debug = "--debug" in arguments
    module = import_module(f"tskd_monai.commands.{COMMANDS[name][0]}")
    try:
        return int(module.main([argument for argument in arguments[1:] if argument != "--debug"]) or 0)
    except KeyboardInterrupt:
        sys.stderr.write("\nInterrupted. Run the same command to resume.\n")
        return INTERRUPTED
    except Exception as error:
        from tskd_monai.bundle.options import user_error

        reason = user_error(error)
        if debug or reason is None:
            raise
        sys.stderr.write(f"tskd {name}: error: {reason}\n")
        return FAILED

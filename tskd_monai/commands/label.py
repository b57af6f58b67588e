"""Serves a student to 3D Slicer and OHIF with MONAI Label.

tskd label runs/mystudy/student scans/
tskd label shipped http://127.0.0.1:8042/dicom-web --port 8001

SCANS is a folder of .nii.gz files, or the address of a DICOMweb server. Training in the viewer replaces the student's
weights when the new ones validate better; use a copy of the bundle to keep the old ones.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

from tskd_monai.commands.command_parser import CommandParser
from tskd_monai.commands.student_argument import add_student, student_folder


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Returns the parsed command line."""
    parser = CommandParser("label", __doc__)
    add_student(parser)
    parser.add_argument("scans", help="folder with .nii.gz files, or the address of a DICOMweb server")
    parser.add_argument("--port", type=int, default=8000, help="port of the server (default: 8000)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    args: argparse.Namespace = parser.parse_args(argv)
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the command line, prints the line it stands for, and starts the server in this process."""
    args = parse_arguments(argv)
    from tskd_monai.files.shipped import ROOT

    script = ROOT / "scripts" / "monai_label.sh"
    if not script.is_file() or shutil.which("bash") is None:
        raise FileNotFoundError(
            "Expected bash and scripts/monai_label.sh of a checkout, which make the server's own environment, found "
            "none; clone the project to serve a student."
        )
    scans = args.scans if "://" in args.scans else str(Path(args.scans).resolve())
    server = [str(script), str(student_folder(args.student)), scans, "--port", str(args.port), "--host", args.host]
    print(f"$ {shlex.join(['bash', *server])}", flush=True)
    os.execvp("bash", ["bash", *server])

"""Serves a student to 3D Slicer and OHIF with MONAI Label.

tskd label runs/mystudy/student scans/
tskd label shipped http://127.0.0.1:8042/dicom-web --port 8001

SCANS is a folder of .nii.gz files, or the address of a DICOMweb server. Training in the viewer replaces the student's
weights when the new ones validate better; use a copy of the bundle to keep the old ones.
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the command line and starts the server in this process."""
    parser = argparse.ArgumentParser(
        prog="tskd label", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("student", help="folder of a student bundle, or `shipped`")
    parser.add_argument("scans", help="folder with .nii.gz files, or the address of a DICOMweb server")
    parser.add_argument("--port", type=int, default=8000, help="port of the server (default: 8000)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    args = parser.parse_args(argv)
    from tskd_monai.commands.segment import student_folder
    from tskd_monai.files.shipped import BUNDLES

    script = BUNDLES.parent / "scripts" / "monai_label.sh"
    if not script.is_file() or shutil.which("bash") is None:
        raise FileNotFoundError(
            "Expected bash and scripts/monai_label.sh of a checkout, which make the server's own environment, found "
            "none; clone the project to serve a student."
        )
    command = [
        str(script),
        str(student_folder(args.student)),
        args.scans,
        "--port",
        str(args.port),
        "--host",
        args.host,
    ]
    os.execvp("bash", ["bash", *command])

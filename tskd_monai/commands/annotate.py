"""Serves a promptable model to 3D Slicer and OHIF: boxes become labels, and these a student.

tskd annotate runs/liver scans/ --labels liver,spleen --modality MR
tskd annotate runs/liver scans/

PROJECT is a folder for settings, training rounds and the student; the second call continues with what is there. SCANS
is a folder of images, or the address of a DICOMweb server. MONAI Label serves the model `boxes`, and `student` once
its trainer has run: LoRA on the promptable model's encoder and distillation, on the slices that a person confirmed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tskd_monai.commands.command_parser import CommandParser, output_folder
from tskd_monai.files.child_process import SAFE_PATH

MAIN = "from tskd_monai.annotation.label_app import AnnotationApp\n"
"""Program of the app, in which MONAI Label looks for a subclass of its own."""


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Returns the parsed command line."""
    parser = CommandParser("annotate", __doc__)
    parser.add_argument("project", type=output_folder, help="folder of the project")
    parser.add_argument("scans", help="folder of images, or the address of a DICOMweb server")
    parser.add_argument("--labels", help="names of the structures, such as liver,spleen; needed in the first call")
    parser.add_argument("--modality", default="", help="such as MR or CT, whose images are shown in a window")
    parser.add_argument(
        "--promptable", default="lite_medsam", help="promptable model, NAME or NAME=WEIGHTS (default: lite_medsam)"
    )
    parser.add_argument("--size", type=int, default=256, help="side of its input, pixels (default: 256)")
    parser.add_argument("--preset", default="small", help="preset of `tskd train` for the rounds (default: small)")
    parser.add_argument("--image-size", type=int, metavar="PIXELS", help="side of the student's input")
    parser.add_argument("--teacher", help="encoder of the teacher (default: the promptable model's)")
    parser.add_argument("--port", type=int, default=8000, help="port of the server (default: 8000)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    args: argparse.Namespace = parser.parse_args(argv)
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the command line, makes or opens the project, and starts the server in this process."""
    args = parse_arguments(argv)
    from tskd_monai.annotation.project import APP, SETTINGS, AnnotationProject, ProjectSettings
    from tskd_monai.files.shipped import ROOT

    setup = ROOT / "scripts" / "setup_monai_label.sh"
    if not setup.is_file() or shutil.which("bash") is None:
        raise FileNotFoundError(
            "Expected bash and scripts/setup_monai_label.sh of a checkout, which make the server's own environment, "
            "found none; clone the project to annotate."
        )
    if "://" not in args.scans and not Path(args.scans).is_dir():
        raise FileNotFoundError(f"Expected a folder of images at {args.scans}, found none.")
    if args.labels:
        project = AnnotationProject.make(args.project, ProjectSettings(*_settings(args)))
    elif (args.project / SETTINGS).is_file():
        project = AnnotationProject(args.project)
    else:
        raise ValueError(f"Expected --labels in the first call, as {args.project} is no project yet.")
    app = project.folder.resolve() / APP
    app.mkdir(exist_ok=True)
    (app / "main.py").write_text(MAIN)
    python = subprocess.run(["bash", str(setup)], check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1]
    _announce(args)
    os.environ.update(_environment(ROOT, python))
    server = [python, "-m", "monailabel.main", "start_server", "--app", str(app), "--studies", _studies(args.scans)]
    os.execv(python, [*server, "--host", args.host, "--port", str(args.port), "--conf", "sam2", "false"])


def _settings(args: argparse.Namespace) -> tuple[tuple[str, ...], str, str, str, int, tuple[str, ...]]:
    """Returns the fields of `ProjectSettings`; missing weights and unknown models end the call here."""
    from tskd_monai.networks.encoder_records import encoder_record
    from tskd_monai.networks.pretrained import CACHED, weights_path
    from tskd_monai.networks.promptable import PROMPTABLE

    name, _, weights = args.promptable.partition("=")
    if not isinstance(encoder_record(name).architecture, PROMPTABLE):
        raise ValueError(f"Expected --promptable with a model that takes SAM's prompts, found {name}.")
    path = weights_path(name, weights or CACHED)
    weights = weights if path is None else str(path.resolve())
    training = ["--teacher", args.teacher or f"{name}={weights}", "--preset", args.preset, "--synthesis", "off"]
    training += ["--image-size", str(args.image_size)] if args.image_size else []
    labels = tuple(label.strip() for label in args.labels.split(","))
    return labels, args.modality, name, weights, args.size, tuple(training)


def _studies(scans: str) -> str:
    return scans if "://" in scans else str(Path(scans).resolve())


def _environment(root: Path, python: str) -> dict[str, str]:
    """Returns the variables of the server, which the training processes inherit."""
    own = os.environ.get("PYTHONPATH")
    paths = os.pathsep.join(filter(None, (str(root), own)))
    return {
        **SAFE_PATH,
        "HF_HUB_OFFLINE": "1",  # a missing file is an error, not a download
        "PYTHONPATH": os.pathsep.join([paths, str(root / "scripts" / "monai_label_stubs")]),
        "TSKD_PYTHONPATH": paths,
        "TSKD_PYTHON": sys.executable,
        "PATH": os.pathsep.join([str(Path(python).parent), os.environ["PATH"]]),
        "MONAI_LABEL_DICOMWEB_CACHE_EXPIRY": os.environ.get("MONAI_LABEL_DICOMWEB_CACHE_EXPIRY", "0"),
    }


def _announce(args: argparse.Namespace) -> None:
    address = f"http://{'127.0.0.1' if args.host == '0.0.0.0' else args.host}:{args.port}"
    print(
        f"MONAI Label serves {args.project} on {args.scans} at {address} (3D Slicer: module MONAILabel; OHIF: /ohif/)"
    )
    print("Ctrl+C stops it. Its log follows.", flush=True)

"""Starts the MONAI Label server on a bundle, in the server's own environment; see monai_label.sh.

The checks need no package, so that they can run before that environment exists.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import socket
import sys
from pathlib import Path

NAME = re.compile(r"[A-Za-z0-9_.-]+")
OTHER_TYPES = ("deepedit", "deepgrow", "detection", "classification")
"""MONAI Label takes a bundle with one of these in its name for another kind of model, and calls it differently."""


def check_name(name: str) -> str:
    """Returns the model's name if MONAI Label accepts a bundle of that name as a segmentation.

    Raises:
        ValueError: if it does not, or the name is not valid in a path or an address.
    """
    if not NAME.fullmatch(name):
        raise ValueError(f"expected a name of letters, digits, _ . and -, found '{name}'. Choose one with --name.")
    taken = [word for word in OTHER_TYPES if word in name.lower()]
    if taken:
        raise ValueError(f"expected no '{taken[0]}' in the name '{name}': MONAI Label goes by it. Choose with --name.")
    return name


def check_task(path: Path) -> None:
    """Raises ValueError for a task whose label maps MONAI Label and its viewers would silently change.

    Viewers name and save labels by their order, and 2D image files are written transposed.
    """
    task = json.loads(path.read_text())
    if task["axcodes"] is None:
        raise ValueError(f"expected a task of volumes in {path}, found one of 2D images, which MONAI Label transposes.")
    values = [label["value"] for label in task["labels"]]
    if values != list(range(len(values))):
        raise ValueError(
            f"expected label values {list(range(len(values)))} in {path}, found {values}. Viewers number labels in "
            "their order; number them so in task.json and in the label files that the bundle is trained on."
        )


def check_port(host: str, port: int) -> None:
    """Raises ValueError if the port is in use."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise ValueError(
                f"expected a free port, found {host}:{port} taken ({error}). Choose with --port."
            ) from error


def make_app(app: Path, bundle: Path, name: str) -> None:
    """Copies MONAI Label's app for bundles into an empty folder and links the bundle as its only model."""
    shutil.rmtree(app, ignore_errors=True)
    source = Path(sys.prefix) / "monailabel" / "sample-apps" / "monaibundle"
    shutil.copytree(source, app, ignore=shutil.ignore_patterns("logs", "model", "__pycache__"))
    (app / "model").mkdir()
    (app / "model" / name).symlink_to(bundle, target_is_directory=True)


def search_filter(bundle: Path) -> str:
    """Returns the filter for series offered from a DICOMweb server: those of the bundle's modality."""
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    return json.dumps({"Modality": metadata["network_data_format"]["inputs"]["image"]["modality"]})


def announce(name: str, host: str, port: int, studies: str) -> None:
    """Prints the addresses for viewers."""
    address = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"
    print(f"MONAI Label serves the model {name} on {studies}")
    print(f"  3D Slicer   module MONAILabel, server address {address}")
    if studies.startswith("http"):
        print(f"  OHIF        {address}/ohif/")
    print(f"  REST        {address}/docs")
    print("Ctrl+C stops it. Its log follows.", flush=True)


def main() -> None:
    """Reads the command line, checks it and starts the server in this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("studies")
    parser.add_argument("--app", type=Path, required=True, help="folder used by this server only, recreated")
    parser.add_argument("--name", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--check", action="store_true", help="check everything and exit")
    args = parser.parse_args()
    try:
        check_name(args.name)
        check_task(args.bundle / "configs" / "task.json")
        check_port(args.host, args.port)
    except ValueError as error:
        print(f"monai_label: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    if args.check:
        return
    make_app(args.app, args.bundle, args.name)
    os.environ.setdefault("MONAI_LABEL_DICOMWEB_SEARCH_FILTER", search_filter(args.bundle))
    # The PACS is queried each time: a cached answer would offer a labelled series as the next sample for two hours.
    os.environ.setdefault("MONAI_LABEL_DICOMWEB_CACHE_EXPIRY", "0")
    announce(args.name, args.host, args.port, args.studies)
    # The zoo's default source is queried over the network even for a local bundle.
    settings = {"models": args.name, "zoo_source": "ngc", "sam2": "false"}
    command = ["-m", "monailabel.main", "start_server", "--app", str(args.app), "--studies", args.studies]
    command += ["--host", args.host, "--port", str(args.port)]
    for key, value in settings.items():
        command += ["--conf", key, value]
    os.environ["PYTHONSAFEPATH"] = "1"  # `-m` would import modules of the current folder first
    os.execv(sys.executable, [sys.executable, *command])


if __name__ == "__main__":
    main()

"""Exports a student for ONNX Runtime or OpenVINO, the MONAI Model Zoo or the Hugging Face hub.

tskd export runs/mystudy/student --to onnx --calibration study/datalist.json
tskd export runs/mystudy/student --to zoo,hub --card card.yaml --repo-id owner/name --dry-run

  onnx, openvino  graphs beside the student's weights, and a table of their differences from torch
  zoo             a folder and a zip in --output-dir that run without this project; STUDENT may be a
                  teacher or a diffusion model
  hub             that folder, or STUDENT if it is one, uploaded with the token of `hf auth login`
  pt2, portable   the network as a torch.export program; a bundle of MONAI's own parts without code
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from tskd_monai.bundle.zoo.names import SHIPPED_CARD, ZOO_NAMES
from tskd_monai.commands.command_parser import CommandParser, nearest, output_folder
from tskd_monai.commands.student_argument import SHIPPED, add_student, student_folder

if TYPE_CHECKING:
    from types import ModuleType

ENGINES = {"onnx": "onnxruntime", "openvino": "openvino"}
"""The engine that runs each kind of graph: the name of its package."""
ZOO, HUB, PORTABLE, PROGRAM = "zoo", "hub", "portable", "pt2"
TARGETS = (*ENGINES, ZOO, HUB, PORTABLE, PROGRAM)
OWN_OPTIONS = {
    **dict.fromkeys(("calibration", "fold"), tuple(ENGINES)),
    **dict.fromkeys(("output_dir", "card", "name"), (ZOO, HUB, PORTABLE)),
    **dict.fromkeys(("metrics", "bundle", "task", "encoder_weights", "url"), (ZOO, HUB)),
    **dict.fromkeys(("repo_id", "private", "dry_run"), (HUB,)),
}
"""The targets of options that not all of them have."""


def command_line() -> CommandParser:
    """Returns the parser of the command line."""
    parser = CommandParser("export", __doc__)
    add_student(parser)
    parser.add_argument(
        "--to",
        type=named_targets,
        metavar="LIST",
        help=f"of {', '.join(TARGETS)} (default: graphs of the installed engines)",
    )
    engines = parser.add_argument_group("onnx and openvino")
    engines.add_argument(
        "--calibration",
        type=Path,
        metavar="DATALIST",
        help="calibrate int8 on `training`; kept if it loses less than half a Dice point on `validation`",
    )
    engines.add_argument("--fold", type=int, help="fold of the datalist")
    zoo = parser.add_argument_group("zoo, hub and portable")
    zoo.add_argument("--output-dir", type=output_folder, metavar="DIR", help="default: zoo/")
    zoo.add_argument("--card", type=Path, help=f"licence, data and owner, as in {SHIPPED_CARD.name}; needed for hub")
    zoo.add_argument("--metrics", type=Path, help="metrics.json of an evaluation, for the README's table")
    zoo.add_argument(
        "--bundle", choices=ZOO_NAMES, metavar="BUNDLE", help="bundle to fill in (default: by STUDENT's content)"
    )
    zoo.add_argument("--name", help=f"name in the zoo (default: such as {ZOO_NAMES['segmentation']})")
    zoo.add_argument("--task", type=Path, help="task.json of a teacher or a diffusion model, if not in its folder")
    zoo.add_argument("--encoder-weights", type=Path, metavar="FILE", help="what a teacher was trained from")
    zoo.add_argument(
        "--url",
        type=named_url,
        action="append",
        metavar="PATH=URL",
        help="address of a file above 25 MB; may be repeated",
    )
    hub = parser.add_argument_group("hub")
    hub.add_argument("--repo-id", metavar="OWNER/NAME", help="repository, made if there is none")
    hub.add_argument("--private", action="store_true", help="make a new repository private")
    hub.add_argument("--dry-run", action="store_true", help="show the card's header and the files, and send nothing")
    return parser


def named_targets(text: str) -> list[str]:
    """Returns the targets in a list such as `onnx,zoo`."""
    targets = text.split(",")
    for target in targets:
        if target not in TARGETS:
            raise argparse.ArgumentTypeError(
                f"expected {', '.join(TARGETS)}, found {target!r}{nearest(target, TARGETS)}"
            )
    return targets


def named_url(text: str) -> tuple[str, str]:
    """Returns (path below the bundle, address) of a `PATH=URL`."""
    path, _, url = text.partition("=")
    if not path or not url:
        raise argparse.ArgumentTypeError(f"expected PATH=URL, such as models/model.pt=https://…, found {text!r}")
    return path, url


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Returns the parsed command line."""
    parser = command_line()
    args: argparse.Namespace = parser.parse_args(argv)
    args.to = args.to or [name for name, package in ENGINES.items() if find_spec(package)] or list(ENGINES)[:1]
    for option, targets in OWN_OPTIONS.items():
        if getattr(args, option) and not set(targets) & set(args.to):
            name = option.replace("_", "-")
            parser.error(f"--{name} needs --to {' or '.join(targets)}, found {','.join(args.to)}")
    if HUB in args.to and args.repo_id is None:
        parser.error("expected --repo-id OWNER/NAME with --to hub")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the command line and exports."""
    args = parse_arguments(argv)
    hub = hub_for(args.repo_id) if HUB in args.to else None
    if engines := [engine for name, engine in ENGINES.items() if name in args.to]:
        export_engines(student_folder(args.student), engines, args.calibration, args.fold)
    if PROGRAM in args.to:
        from tskd_monai.inference.exported_program import PROGRAM_FILE, export_program

        student = student_folder(args.student)
        difference = export_program(student)
        print(f"Program: {student / 'models' / PROGRAM_FILE}   Largest difference of logits: {difference:.2g}")
    if PORTABLE in args.to:
        print(f"Bundle: {export_portable(args)}/")
    if ZOO in args.to or hub and not hub.is_exported(Path(args.student)):
        folder = export_zoo(args)
    else:
        folder = Path(args.student)
    if hub and args.dry_run:
        print(f"{hub.contents_for_hub(folder, args.repo_id)} Nothing was uploaded.")
    elif hub:
        print(f"Commit: {hub.push(folder, args.repo_id, args.private)}")


def export_engines(student: Path, engines: Sequence[str], datalist: Path | None, fold: int | None) -> None:
    """Writes the graphs into a student bundle, and prints their differences from torch.

    Args:
        student: folder of the bundle.
        engines: any of the values of `ENGINES`.
        datalist: datalist whose images calibrate int8 and validate the engines; None: neither.
        fold: fold of the datalist.

    Raises:
        ImportError: if a package is missing; names the extra.
        ValueError: if the datalist is invalid.
    """
    from tskd_monai.data.datalist import load_section
    from tskd_monai.files.atomic import atomic_path
    from tskd_monai.inference.export import export_student, load_cases, load_student, parity_table

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    calibration, validation = [], []
    if datalist:
        _, task = load_student(student)
        validation = list(load_cases(load_section(datalist, "validation", fold), task))
        if "openvino" in engines:
            calibration = list(load_cases(load_section(datalist, "training", fold), task))
    table = parity_table(export_student(student, engines, calibration, validation))
    path = student / "models" / "export.md"
    with atomic_path(path) as temporary:
        temporary.write_text(table)
    print(f"{table}Table: {path}")


def export_zoo(args: argparse.Namespace) -> Path:
    """Writes the folder, the zip and the unit test of an exported bundle; returns the folder.

    Raises:
        FileNotFoundError: if something to be exported is missing.
        ValueError: if it is not as required.
    """
    from tskd_monai.bundle.zoo.bundle import Export, export_bundle
    from tskd_monai.bundle.zoo.contents import Trained, bundle_of

    weights = None if args.student == SHIPPED else Path(args.student)
    bundle = args.bundle or bundle_of(weights)
    card = args.card or (SHIPPED_CARD if weights is None else None)
    if HUB in args.to and card is None:
        raise ValueError(f"Expected --card with the licence of the weights, as in {SHIPPED_CARD}, found none.")
    trained = Trained(weights, args.task, args.encoder_weights)
    export = Export(bundle, args.name or ZOO_NAMES[bundle], trained, card, args.metrics, dict(args.url or ()))
    folder, archive, large = export_bundle(export, args.output_dir or Path(ZOO))
    if large:
        print(f"Leave out of the zoo's pull request (large_files.yml names them): {', '.join(large)}")
    print(f"Bundle: {folder}/   Zip: {archive} ({archive.stat().st_size / 1e6:.2f} MB)")
    return folder


def export_portable(args: argparse.Namespace) -> Path:
    """Writes the folder of a portable bundle, and returns it; raises as `bundle.zoo.portable.export_portable`."""
    from tskd_monai.bundle.zoo import portable
    from tskd_monai.bundle.zoo.contents import Trained

    weights = None if args.student == SHIPPED else Path(args.student)
    card = args.card or (SHIPPED_CARD if weights is None else None)
    name = args.name or f"{ZOO_NAMES['segmentation']}_portable"
    return portable.export_portable(Trained(weights), args.output_dir or Path(ZOO), name, card)


def hub_for(repo_id: str) -> ModuleType:
    """Returns the module that uploads, once the repository's name is known to be valid.

    Raises:
        ImportError: if huggingface_hub is not installed.
        ValueError: if the name is not valid.
    """
    try:
        from huggingface_hub.utils import validate_repo_id

        from tskd_monai.bundle.zoo import hub
    except ImportError as error:
        raise ImportError(
            f"The hub needs huggingface_hub ({error}); install the extra `training`: pip install "
            "'tskd-monai[training]'."
        ) from error
    validate_repo_id(repo_id)
    return hub

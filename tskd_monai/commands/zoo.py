"""Exports one of the bundles as a folder and a zip for the MONAI model zoo, with the code it needs inside.

tskd zoo segmentation --output zoo
tskd zoo segmentation --weights my_run/student --card card.yaml --output zoo
tskd zoo teacher_lora --weights my_run/teacher --task my_run/task.json --output zoo

The shipped student is the default of `segmentation`; every other bundle needs the weights of a training run. The
exported bundle runs without this project, from any working directory, given --bundle_root.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tskd_monai.bundle.zoo.names import SHIPPED_CARD, ZOO_NAMES


def named_url(text: str) -> tuple[str, str]:
    """Returns (path below the bundle, address) of a `PATH=URL`."""
    path, _, url = text.partition("=")
    if not path or not url:
        raise argparse.ArgumentTypeError(f"expected PATH=URL, such as models/model.pt=https://…, found {text!r}")
    return path, url


def command_line() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="tskd zoo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", choices=list(ZOO_NAMES), metavar="NAME", help=f"one of {', '.join(ZOO_NAMES)}")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder, zip and unit test go here")
    parser.add_argument("--name", help=f"name in the zoo (default: such as {ZOO_NAMES['segmentation']})")
    parser.add_argument("--weights", type=Path, metavar="DIR", help="student bundle, teacher or diffusion model")
    parser.add_argument("--task", type=Path, help="task.json of a teacher or a diffusion model")
    parser.add_argument("--encoder-weights", type=Path, help="file that a teacher was trained from, if not shipped")
    parser.add_argument(
        "--url",
        type=named_url,
        action="append",
        default=[],
        metavar="PATH=URL",
        help="download address of a file above 25 MB; may be repeated",
    )
    parser.add_argument("--card", type=Path, help=f"what only you know, as in {SHIPPED_CARD.name}")
    parser.add_argument("--metrics", type=Path, help="metrics.json of an evaluation, for the README's table")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the command line, exports and prints what was written."""
    parser = command_line()
    args = parser.parse_args(argv)
    # torch and MONAI take seconds to import
    from tskd_monai.bundle.zoo.bundle import Export, export_bundle
    from tskd_monai.bundle.zoo.contents import Trained

    shipped = args.bundle == "segmentation" and args.weights is None
    export = Export(
        bundle=args.bundle,
        name=args.name or ZOO_NAMES[args.bundle],
        trained=Trained(args.weights, args.task, args.encoder_weights),
        card=args.card or (SHIPPED_CARD if shipped else None),
        metrics=args.metrics,
        urls=dict(args.url),
    )
    try:
        folder, archive, large = export_bundle(export, args.output)
    except (FileNotFoundError, ValueError, RuntimeError) as error:
        parser.error(str(error))
    sys.stdout.write(f"{folder}\n{archive} ({archive.stat().st_size / 1e6:.2f} MB)\n")
    if large:
        sys.stdout.write(f"Leave out of the zoo's pull request (large_files.yml names them): {', '.join(large)}\n")

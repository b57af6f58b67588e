"""Prepares a public dataset: from the layout of the official download to checked files and a datalist.

tskd datasets chase_db1 --source CHASEDB1.zip --output-dir data/chase

The datalist is ready for `tskd plan` and `tskd train`. Nothing is downloaded: get the data from its authors, under its
terms. If interrupted, the same command resumes. `--verify` checks a prepared folder again.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from tskd_monai.commands.command_parser import CommandParser, output_folder
from tskd_monai.datasets.dataset import PublicDataset
from tskd_monai.datasets.splits import DEFAULT_SPLIT
from tskd_monai.files.archives import unpack_archives
from tskd_monai.files.json_files import read_json

logger = logging.getLogger(__name__)

PREPARERS: dict[str, tuple[str, str, dict[str, str]]] = {
    "chaos_t2spir": ("chaos", "find_mr", {"sequence": "t2spir"}),
    "chaos_t1_in": ("chaos", "find_mr", {"sequence": "t1_in"}),
    "chaos_t1_out": ("chaos", "find_mr", {"sequence": "t1_out"}),
    "chaos_ct": ("chaos", "find_ct", {}),
    "kidney_us": ("kidney_us", "find", {"structures": "capsule"}),
    "kidney_us_regions": ("kidney_us", "find", {"structures": "regions"}),
    "auto_oral": ("auto_oral", "find", {}),
    "ph2": ("ph2", "find", {}),
    "drive": ("drive", "find", {}),
    "chase_db1": ("chase_db1", "find", {}),
    "hc18": ("hc18", "find", {}),
    "decathlon": ("decathlon", "find", {}),
}
"""Module of `tskd_monai.datasets`, function and options of each dataset; imported when the dataset is prepared."""
OWN_OPTIONS = {"annotator": ("kidney_us", "kidney_us_regions"), "channel": ("decathlon",)}
"""Options that only some datasets have."""
LARGEST_ARCHIVE = 64 * 2**30
"""Maximum unpacked size in bytes: twice that of the largest of these datasets."""


def unpacked(source: Sequence[Path], folder: Path) -> Path:
    """Returns the folder of a download: the one given, or `folder`, into which archives are unpacked once.

    Raises:
        FileNotFoundError: if a folder or archive does not exist.
        ValueError: if an archive is damaged, too large, or contains a path outside the folder.
    """
    if missing := [path for path in source if not path.exists()]:
        raise FileNotFoundError(f"Expected a folder or archives of the download, found nothing at {missing[0]}.")
    folders = [path for path in source if path.is_dir()]
    if folders and len(source) > 1:
        raise ValueError(f"Expected one folder or archives of the download, found {folders[0]} among {len(source)}.")
    if folders:
        return folders[0]
    if folder.exists():
        logger.info("Using the unpacked files in %s; remove the folder to unpack again.", folder)
    else:
        unpack_archives(source, folder, LARGEST_ARCHIVE)
        logger.info("Unpacked into %s, which may be removed once the dataset is prepared.", folder)
    return folder


def find_dataset(name: str, source: Path, annotator: int | None = None, channel: int | None = None) -> PublicDataset:
    """Returns the dataset that its preparer finds in a folder.

    Args:
        name: one of `PREPARERS`.
        source: folder of the unpacked download.
        annotator: annotator of KidneyUS; None: the first.
        channel: channel of a Decathlon task; None: its only one.

    Raises:
        FileNotFoundError: if the layout is not the official one.
        ValueError: if an option is given that the dataset does not have.
    """
    given = {key: value for key, value in {"annotator": annotator, "channel": channel}.items() if value is not None}
    for option in given:
        if name not in OWN_OPTIONS[option]:
            raise ValueError(f"Expected --{option} for {', '.join(OWN_OPTIONS[option])} only, found {name}.")
    return preparer(name)(source, **given)


def preparer(name: str) -> Callable[..., PublicDataset]:
    """Returns the function that finds a dataset in its unpacked download."""
    module, function, options = PREPARERS[name]
    found: Callable[..., PublicDataset] = getattr(import_module(f"tskd_monai.datasets.{module}"), function)
    return partial(found, **options)


def summary(datalist: Mapping[str, Any]) -> str:
    """Returns the licence and the counts of a datalist in two lines."""
    counts = ", ".join(
        f"{section} {number['images']} images of {number['patients']} patients"
        for section, number in datalist["counts"].items()
    )
    return f"{datalist['name']}: {counts}.\nLicence: {datalist['licence']} ({datalist['reference']})."


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Returns the parsed command line."""
    parser = CommandParser("datasets", __doc__)
    parser.add_argument("name", choices=PREPARERS, help=", ".join(PREPARERS))
    parser.add_argument(
        "--source", type=Path, nargs="+", help="the download: its unpacked folder, or its .zip or .tar archives"
    )
    parser.add_argument("--output-dir", type=output_folder, required=True, help="folder to write, or to --verify")
    parser.add_argument("--verify", action="store_true", help="check a prepared folder again, and write nothing")
    parser.add_argument(
        "--split",
        type=float,
        nargs=3,
        default=DEFAULT_SPLIT,
        metavar=("TRAINING", "VALIDATION", "TEST"),
        help="fractions of the patients, or numbers of them, where the section is not official (default: 0.7 0.1 0.2)",
    )
    parser.add_argument("--folds", type=int, default=0, help="number of folds to add for cross-validation by patient")
    parser.add_argument("--seed", type=int, default=0, help="seed of sections and folds")
    parser.add_argument(
        "--allow-partial", action="store_true", help="accept fewer images than the official download has"
    )
    parser.add_argument("--annotator", type=int, help="KidneyUS: annotator of the labels, 1 (default) or 2")
    parser.add_argument("--channel", type=int, help="Decathlon: index of the channel to use, from 0")
    args: argparse.Namespace = parser.parse_args(argv)
    if args.source is None and not args.verify:
        parser.error("expected --source with the download, or --verify")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the command line and prepares or verifies the dataset."""
    args = parse_arguments(argv)
    from tskd_monai.datasets.preparation import prepare_dataset  # MONAI takes seconds to import
    from tskd_monai.datasets.verification import verify_dataset

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logger.setLevel(logging.INFO)
    if args.verify:
        if not (args.output_dir / "datalist.json").is_file():
            raise FileNotFoundError(
                f"Expected a dataset that `tskd datasets` prepared in {args.output_dir}, found no datalist.json; "
                "prepare it with --source."
            )
        datalist = verify_dataset(args.output_dir)
    else:
        source = unpacked(args.source, args.output_dir.with_name(f"{args.output_dir.name}_download"))
        dataset = find_dataset(args.name, source, args.annotator, args.channel)
        logger.info("%s. Licence: %s.", dataset.description.title, dataset.description.licence)
        path = prepare_dataset(
            dataset,
            args.output_dir,
            split=args.split,
            folds=args.folds,
            seed=args.seed,
            allow_partial=args.allow_partial,
        )
        datalist = read_json(path)
    if not datalist["name"].startswith(args.name):
        raise ValueError(f"Expected {args.name} in {args.output_dir}, found {datalist['name']}.")
    logger.info("%s\nDatalist: %s", summary(datalist), args.output_dir / "datalist.json")

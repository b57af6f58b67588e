"""Options of the pipeline on the student's targets: several teachers, label maps, a refiner."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

from tskd_monai.files.checksum import ContentHashes

PROBE_SIZE = 64
"""Side of the images, pixels, at which a promptable model is built to check its weights."""


@dataclass(frozen=True)
class TargetOptions:
    """What the student learns from besides the teacher; nothing by default.

    Attributes:
        teachers: number of teachers, each with another seed, whose predictions are averaged.
        label_maps: folder of label maps that count as one more source; None: none.
        label_maps_sha256: hash of their content.
        refiner: name of the promptable model that refines the targets; None: none.
        refiner_weights: its weights, as for `build_promptable`; None: where it finds them.
        refiner_sha256: SHA-256 of the weights file; None without a file.
    """

    teachers: int = 1
    label_maps: Path | None = None
    label_maps_sha256: str | None = None
    refiner: str | None = None
    refiner_weights: str | None = None
    refiner_sha256: str | None = None

    @property
    def needs_stage(self) -> bool:
        """Whether targets are made in a stage of their own."""
        return self.teachers > 1 or self.label_maps is not None or self.refiner is not None

    @property
    def sentence(self) -> str:
        """What the targets are, in words; empty if the teacher alone makes them."""
        sources = [f"{self.teachers} teachers of different seeds"] * (self.teachers > 1)
        sources += ["the given label maps"] * (self.label_maps is not None)
        if self.teachers == 1 and sources:
            sources.insert(0, "the teacher")
        average = f" Its targets are the average of {' and '.join(sources)}" if sources else ""
        if self.refiner is None:
            return f"{average}." if average else ""
        return f"{average or ' Its targets are the predictions of the teacher'}, refined by {self.refiner}."


def add_target_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options to those of `tskd train`."""
    parser.add_argument(
        "--teachers",
        type=positive_number,
        default=1,
        metavar="N",
        help="teachers, each with another seed; the student learns their average",
    )
    parser.add_argument(
        "--label-maps",
        type=Path,
        metavar="DIR",
        help="label maps of any software, named after cases: one more teacher",
    )
    parser.add_argument(
        "--refiner",
        metavar="NAME[=WEIGHTS]",
        help="promptable model that refines the predictions, such as lite_medsam",
    )


def check_target_options(args: argparse.Namespace, datalist: Path) -> TargetOptions:
    """Returns the checked options, without hashes.

    Args:
        args: the parsed command line.
        datalist: datalist of the user's data.

    Raises:
        FileNotFoundError: if the folder of label maps or the weights of the refiner are missing.
        ValueError: if an image has no label map, or the model is unknown or not promptable.
    """
    options = TargetOptions(teachers=args.teachers)
    if args.label_maps is not None:
        _check_label_maps(args.label_maps, datalist, args.fold)
        options = replace(options, label_maps=args.label_maps.resolve())
    if args.refiner is not None:
        name, weights = _check_refiner(args.refiner)
        options = replace(options, refiner=name, refiner_weights=weights)
    return options


def with_hashes(options: TargetOptions, hashes: ContentHashes) -> TargetOptions:
    """Returns the options with the hashes of label maps and weights.

    Args:
        options: checked options.
        hashes: content hashes, with their cache.
    """
    from tskd_monai.networks.pretrained import weights_path

    if options.label_maps is not None:
        options = replace(options, label_maps_sha256=hashes.of(options.label_maps))
    path = None if options.refiner is None else weights_path(options.refiner, options.refiner_weights)
    return options if path is None else replace(options, refiner_sha256=hashes.of(path))


def _check_label_maps(folder: Path, datalist: Path, fold: int | None) -> None:
    """Checks that each image has a label map, and that the first is on the grid of its image.

    The stage of targets checks them all, but only after hours; software that resamples does so to all of them.
    """
    from tskd_monai.data.datalist import transfer_images
    from tskd_monai.distillation.label_map_files import check_grid, find_label_maps, require_all

    entries = transfer_images(datalist, fold)
    paths = require_all(find_label_maps(folder, entries), entries, folder)
    check_grid(entries[0]["image"], paths[0])


def _check_refiner(refiner: str) -> tuple[str, str | None]:
    """Returns name and weights; builds the model once, so that a wrong file ends the run before hours are spent."""
    from tskd_monai.networks.promptable import build_promptable

    name, _, given = refiner.partition("=")
    build_promptable(name, given or None, PROBE_SIZE)
    return name, str(Path(given).resolve()) if given and Path(given).exists() else given or None


def positive_number(text: str) -> int:
    """Returns a positive whole number; raises argparse's error otherwise."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a positive whole number, found {text}")
    return int(text)

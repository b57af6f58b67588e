"""Segments NIfTI, NRRD, MetaImage and 2D image files, and DICOM series, with a student.

tskd segment shipped scan.nii.gz
tskd segment runs/mystudy/student series/ --output-dir predictions --dicom seg,rtstruct,sc,sr
tskd segment shipped scans/ --output-dir shared --shard 1/2

`tskd segment shipped --watch FOLDER --dicom seg` writes a DICOM SEG of each series that arrives in FOLDER.
Segmentations are on the grid of their image. A second call segments the remaining images. `shipped` is the student in
the package: liver, kidneys and spleen on abdominal MR (T2 SPIR), trained on CHAOS.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tskd_monai.commands.command_parser import CommandParser, output_folder
from tskd_monai.commands.student_argument import add_engine, add_student, student_folder
from tskd_monai.data.dicom_results import RESULTS, SEG
from tskd_monai.files.shard import Shard, parse_shard
from tskd_monai.trust.reasons import short_reasons

SUMMARY = "summary.json"
QUALITY = "models/quality.json"
DICOM_RESULTS_CONFIG = "dicom_results.json"
WATCH_CONFIG = "watch.json"


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Returns the parsed command line."""
    parser = CommandParser("segment", __doc__)
    add_student(parser)
    parser.add_argument("image", type=Path, nargs="+", help="files, folders of files, or folders with a DICOM series")
    parser.add_argument("--output-dir", type=output_folder, default=Path("predictions"), help="default: predictions/")
    parser.add_argument("--tree", action="store_true", help="IMAGE is a folder whose subfolders contain the cases")
    parser.add_argument(
        "--dicom", type=dicom_results, default=[], metavar="seg,rtstruct,sc,sr",
        help="also write each IMAGE, a DICOM series, as a SEG, contours, outlines on the images, a report of volumes",
    )  # fmt: skip
    parser.add_argument("--dicom-seg", action="store_true", help="the same as --dicom seg")
    parser.add_argument(
        "--output-format",
        choices=("nifti", "nrrd", "same"),
        default="nifti",
        help="format of volumes; same: NRRD for an NRRD image, else NIfTI",
    )
    parser.add_argument("--series-uid", help="SeriesInstanceUID to select if a folder contains several series")
    parser.add_argument(
        "--irregular",
        choices=("refuse", "resample"),
        default="refuse",
        help="handling of tilted series and missing slices",
    )
    add_engine(parser)
    parser.add_argument(
        "--shard",
        type=shard,
        metavar="K/N",
        help="segment the k-th of n parts; auto: of torchrun or a Slurm array",
    )
    parser.add_argument("--watch", action="store_true", help="IMAGE is a folder: segment what arrives, until stopped")
    parser.add_argument("--settle", type=float, default=60, help="seconds without a change that end an arrival (60)")
    parser.add_argument("--restart", action="store_true", help="segment again what is already segmented")
    parser.add_argument("--force", action="store_true", help="also write a segmentation whose verdict is `reject`")
    args = parser.parse_args(argv)
    if args.watch and (args.tree or args.shard or args.series_uid or args.restart):
        parser.error("expected --watch without --tree, --shard, --series-uid and --restart")
    if (args.tree or args.watch) and len(args.image) != 1:
        parser.error(f"expected one folder with --{'watch' if args.watch else 'tree'}, found {len(args.image)}")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the command line, segments, and prints one line per case."""
    args = parse_arguments(argv)
    from tskd_monai.bundle.run import BundleRun
    from tskd_monai.commands.bundle_command import part_name, run_bundle
    from tskd_monai.files.json_files import read_json

    student = student_folder(args.student)
    dicom = list(dict.fromkeys([*([SEG] if args.dicom_seg else []), *args.dicom]))
    configs = ["inference.json", *dicom_configs(dicom, student)]
    part = "" if args.shard is None else shard_label(args.shard, student)
    check_images([] if args.watch else args.image, "--dicom" if args.dicom else "--dicom-seg" if args.dicom_seg else "")
    images = args.image[0].resolve() if len(args.image) == 1 else [str(path.resolve()) for path in args.image]
    overrides: dict[str, Any] = {
        **(watching(args, student, configs) if args.watch else {"tree" if args.tree else "image": images}),
        "output_dir": args.output_dir.resolve(),
        "irregular": args.irregular,
        "engine": args.engine,
        # students written by 0.1 do not have the option
        **({} if args.output_format == "nifti" else {"output_format": args.output_format}),
        **({"series_uid": args.series_uid} if args.series_uid else {}),
        **({"shard": str(args.shard)} if part else {}),
        **({"resume": False} if args.restart else {}),
        **({"dicom": dicom} if DICOM_RESULTS_CONFIG in configs else {}),
        # without a quality file there is no verdict
        **({"rejected": "refuse"} if (student / QUALITY).is_file() and not args.force else {}),
    }
    failed = ""
    try:
        run_bundle(BundleRun(student, configs, overrides), part)
    except RuntimeError as error:
        failed = failed_cases(error).partition(":")[0]  # the cases follow in lines of their own
        if not failed:
            raise
    for case in [] if args.watch else read_json(args.output_dir / part_name(SUMMARY, part))["studies"]:
        print(case_line(case))
    print(failed or f"Segmentations: {args.output_dir}/   Volumes: {args.output_dir / 'volumes.csv'}")
    return int(bool(failed))


def watching(args: argparse.Namespace, student: Path, configs: list[str]) -> dict[str, Any]:
    """Returns the options of a run that watches a folder, and adds its config file.

    Raises:
        ValueError: if the student was made before there was such a run, or the seconds are not positive.
    """
    if not (student / "configs" / WATCH_CONFIG).is_file():
        raise ValueError(
            f"Expected configs/{WATCH_CONFIG} in {student} for --watch, found none: the student is of an earlier "
            "version. Copy the file from bundles/segmentation."
        )
    configs.append(WATCH_CONFIG)
    return {"watch": args.image[0].resolve(), "settle": args.settle}


def shard(text: str) -> Shard:
    """Returns the part of the cases that an option such as `3/8` states."""
    try:
        found = parse_shard(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("Expected --shard ")) from None
    assert found is not None
    return found


def shard_label(part: Shard, student: Path) -> str:
    """Returns the name of a shard in file names.

    Raises:
        ValueError: if the student was made before there were shards: it would segment all cases.
    """
    from tskd_monai.files.json_files import read_json

    if "shard" not in read_json(student / "configs" / "inference.json"):
        raise ValueError(
            f"Expected the option shard in configs/inference.json of {student} for --shard {part}, found none: the "
            "student is of an earlier version. Give each call its own images and --output-dir instead."
        )
    return part.label


def dicom_results(text: str) -> list[str]:
    """Returns the kinds of DICOM objects in an option such as `seg,sr`."""
    kinds = text.split(",")
    if not set(kinds) <= set(RESULTS) or len(set(kinds)) < len(kinds):
        raise argparse.ArgumentTypeError(f"expected names among {','.join(RESULTS)}, each once, found {text}")
    return kinds


def dicom_configs(kinds: Sequence[str], student: Path) -> list[str]:
    """Returns the config files of a student that write DICOM objects.

    Raises:
        ValueError: if the student was made before it could write them.
    """
    if not kinds or kinds == [SEG]:
        return ["dicom_seg.json"] * len(kinds)
    if not (student / "configs" / DICOM_RESULTS_CONFIG).is_file():
        raise ValueError(
            f"Expected configs/{DICOM_RESULTS_CONFIG} in {student} for --dicom {','.join(kinds)}, found none: the "
            "student is of an earlier version. Copy the file from bundles/segmentation, or use --dicom seg."
        )
    return [DICOM_RESULTS_CONFIG]


def check_images(paths: Sequence[Path], dicom: str) -> None:
    """Checks the images before anything is written.

    Args:
        paths: images as given.
        dicom: option that asks for DICOM objects; "" if none does.

    Raises:
        FileNotFoundError: if one does not exist, or is a folder without files.
        ValueError: if DICOM objects are wanted of a file that is not DICOM: they refer to the images of a series.
    """
    from tskd_monai.data.dicom.header import is_dicom_file

    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"Expected an image file or a DICOM series folder at {path}, found nothing.")
        if path.is_dir() and not any(file.is_file() for file in path.rglob("*")):
            raise FileNotFoundError(f"Expected images or a DICOM series in the folder {path}, found no file.")
        if dicom and path.is_file() and not is_dicom_file(path):
            raise ValueError(f"Expected DICOM series with {dicom}, found {path}; segment other images without it.")


def case_line(case: Mapping[str, Any]) -> str:
    """Returns the result of a case in one line: sizes, files and verdict, or why it failed."""
    name = case["name"] or case["study"]
    if case["status"] != "done":
        return f"{name}: FAILED: {case['message']}"
    field, unit, digits = ("volumes_ml", "mL", 1) if "volumes_ml" in case else ("pixels", "pixels", 0)
    sizes = ", ".join(f"{structure} {size:.{digits}f} {unit}" for structure, size in case[field].items())
    quality = case.get("quality")
    verdict = f" [{short_reasons([quality['verdict'], *quality['reasons']])}]" if quality else ""
    return f"{name}: {sizes} -> {', '.join(case['outputs'])}{verdict}"


def failed_cases(error: BaseException | None) -> str:
    """Returns the message of a run in which cases failed, "" for any other error; MONAI wraps what a config raises."""
    from tskd_monai.inference.segmentation_run import CasesFailedError

    while error is not None and not isinstance(error, CasesFailedError):
        error = error.__cause__ or error.__context__
    return str(error or "")

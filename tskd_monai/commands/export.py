"""Exports a student's network for ONNX Runtime and OpenVINO, and prints how far their results are from torch.

tskd export my_run/student --calibration my_dataset/datalist.json
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("onnxruntime", "openvino")


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the command line, writes the files and prints the table."""
    parser = argparse.ArgumentParser(
        prog="tskd export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path, help="student bundle with models/model.pt")
    parser.add_argument(
        "--engines", nargs="+", choices=PACKAGES, help="engines to export for (default: those installed)"
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="DATALIST",
        help="int8 is calibrated on its `training` images and kept if `validation` loses less than half a Dice point",
    )
    parser.add_argument("--fold", type=int, help="fold of the datalist")
    args = parser.parse_args(argv)
    # torch and MONAI take seconds to import
    from tskd_monai.data.datalist import load_section
    from tskd_monai.files.atomic import atomic_path
    from tskd_monai.inference.export import export_student, load_cases, load_student, parity_table

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    engines = args.engines or [package for package in PACKAGES if find_spec(package)]
    try:
        calibration, validation = [], []
        if args.calibration:
            _, task = load_student(args.bundle)
            validation = list(load_cases(load_section(args.calibration, "validation", args.fold), task))
            if "openvino" in engines:
                calibration = list(load_cases(load_section(args.calibration, "training", args.fold), task))
        rows = export_student(args.bundle, engines, calibration, validation)
    except (FileNotFoundError, ImportError, ValueError) as error:
        parser.error(str(error))
    table = parity_table(rows)
    with atomic_path(args.bundle / "models" / "export.md") as temporary:
        temporary.write_text(table)
    sys.stdout.write(table)

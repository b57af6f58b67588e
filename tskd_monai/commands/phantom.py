"""Writes the embedded phantom: synthetic abdominal MR scans with labels and a datalist, to try everything on.

tskd phantom --output-dir phantom --training 6 --validation 2 --test 2

If interrupted, the same command resumes.
"""

from __future__ import annotations

from collections.abc import Sequence

from tskd_monai.commands.bundle_command import plain_messages
from tskd_monai.commands.command_parser import CommandParser, output_folder


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the command line and writes the dataset."""
    parser = CommandParser("phantom", __doc__)
    parser.add_argument("--output-dir", type=output_folder, metavar="DIR", default="phantom", help="default: phantom/")
    parser.add_argument("--seed", type=int, default=0, help="seed of the patients (default: 0)")
    parser.add_argument("--training", type=int, default=12, help="number of cases")
    parser.add_argument("--validation", type=int, default=3, help="number of cases")
    parser.add_argument("--test", type=int, default=6, help="number of cases")
    parser.add_argument("--unlabeled", type=int, default=0, help="number of cases without a label")
    parser.add_argument("--shape", type=int, nargs=3, default=(96, 96, 24), help="voxels along the array axes")
    parser.add_argument("--spacing", type=float, nargs=3, default=(3.6, 3.6, 7.2), help="mm along the array axes")
    parser.add_argument("--axcodes", default="LAS", help="directions of the array axes")
    args = parser.parse_args(argv)
    from tskd_monai.datasets.phantom.study import write_study  # MONAI takes seconds to import

    plain_messages()
    counts = {name: getattr(args, name) for name in ("training", "validation", "test", "unlabeled")}
    write_study(
        args.output_dir,
        seed=args.seed,
        sections={name: count for name, count in counts.items() if count},
        shape=tuple(args.shape),
        spacing=tuple(args.spacing),
        axcodes=args.axcodes,
    )

"""Lists the code that a bundle would run and that is not on the allow-list, without running any of it.

tskd audit runs/mystudy/student

Exit code 0: nothing listed; 1: findings listed, read them before you run the bundle; 2: no such bundle.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from tskd_monai.commands.command_parser import CommandParser

NO_BUNDLE = 2
"""Exit code, as 1 is the one of findings."""


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the command line, prints the findings and returns the exit code."""
    parser = CommandParser("audit", __doc__)
    parser.add_argument("bundle", type=Path, nargs="+", help="folder of a bundle")
    parser.add_argument("--allow-list", type=Path, help="JSON with expressions, targets, logging; default: our own")
    parser.add_argument(
        "--write-allow-list", action="store_true", help="rewrite the list from these bundles, after reviewing them"
    )
    args = parser.parse_args(argv)
    from tskd_monai.bundle.audit import ALLOW_LIST, AllowList, odd_weights, unlisted_code, write_allow_list  # torch

    allow_list = args.allow_list or ALLOW_LIST
    try:
        check_not_empty(args.bundle)
        if args.write_allow_list:
            write_allow_list(args.bundle, allow_list)
            return 0
        allowed = AllowList.read(allow_list)
        found = {bundle: [*unlisted_code(bundle, allowed), *odd_weights(bundle)] for bundle in args.bundle}
    except (FileNotFoundError, ValueError) as error:
        sys.stderr.write(f"tskd audit: error: {error}\n")
        return NO_BUNDLE
    for bundle, findings in found.items():
        for finding in findings:
            position = f" {finding.position}" if finding.position else ""
            print(f"{bundle.name}/{finding.file}{position}: {finding.kind} {finding.text!r}")
        print(f"{bundle.name}: {len(findings)} findings")
    return int(any(found.values()))


def check_not_empty(bundles: Sequence[Path]) -> None:
    """Raises FileNotFoundError for a folder without files, in which nothing could be found."""
    for bundle in bundles:
        if bundle.is_dir() and not any(path.is_file() for path in bundle.rglob("*")):
            raise FileNotFoundError(f"Expected a bundle in {bundle}, found no file.")

"""Lists what a bundle would run that is not on the allow-list, without running any of it.

tskd audit BUNDLE

Exit code 0: nothing; 1: something is listed, read it before you run the bundle; 2: there is no such bundle.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from tskd_monai.bundle.audit import (
    ALLOW_LIST,
    WEIGHTS_SUFFIXES,
    AllowList,
    Finding,
    bundle_code,
    unlisted_code,
)
from tskd_monai.training.checkpoint import load_checkpoint


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the command line, prints the findings and returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="tskd audit", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path, nargs="+", help="folder of a bundle")
    parser.add_argument("--allow-list", type=Path, default=ALLOW_LIST, help="JSON with expressions, targets, logging")
    parser.add_argument(
        "--write-allow-list", action="store_true", help="write the list anew from these bundles, which you have read"
    )
    args = parser.parse_args(argv)
    try:
        if args.write_allow_list:
            write_allow_list(args.bundle, args.allow_list)
            return 0
        allowed = AllowList.read(args.allow_list)
        found = {bundle: [*unlisted_code(bundle, allowed), *odd_weights(bundle)] for bundle in args.bundle}
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))
    for bundle, findings in found.items():
        for finding in findings:
            place = f" {finding.place}" if finding.place else ""
            print(f"{bundle.name}/{finding.file}{place}: {finding.kind} {finding.text!r}")
        print(f"{bundle.name}: {len(findings)} findings")
    return int(any(found.values()))


def odd_weights(bundle: Path) -> Iterator[Finding]:
    """Yields the weights files that hold more than tensors and plain values, or unpack to more than they are."""
    for path in sorted(file for file in bundle.rglob("*") if file.suffix.lower() in WEIGHTS_SUFFIXES):
        try:
            load_checkpoint(path)
        except ValueError as error:
            yield Finding(path.relative_to(bundle).as_posix(), "", "weights", str(error))


def write_allow_list(bundles: list[Path], path: Path) -> None:
    """Writes all expressions, targets and logging fields of bundles as the allow-list."""
    kinds = {"expression": "expressions", "_target_": "targets", "logging": "logging"}
    lists: dict[str, set[str]] = {name: set() for name in kinds.values()}
    for bundle in bundles:
        for finding in bundle_code(bundle):
            if finding.kind in kinds:
                lists[kinds[finding.kind]].add(finding.text)
    path.write_text(json.dumps({name: sorted(texts) for name, texts in lists.items()}, indent=2) + "\n")

"""Feeds mutated files to every parser of ours and counts the outcomes.

A parser may read its input or reject it with an error that it documents and that names the file. Anything else is an
offence: another error, a crash, more than 10 s, more than 2 GB. Inputs are a function of the seed, the parser's name
and their number; every offender is saved with what is needed to reproduce it.

python -m tests.reliability.mutate_parsers --offenders FOLDER            a full run
python -m tests.reliability.mutate_parsers --parsers task --inputs 500   one parser, 500 inputs
python -m tests.reliability.mutate_parsers --replay FOLDER/task-17       repeats one offender, with its traceback
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "parsers.json"
KEPT_OFFENDERS = 200
"""Limit per parser: more offenders of one kind add no information."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 1 if there was an offender."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parsers", nargs="*", help="names; all unless given")
    parser.add_argument("--inputs", type=int, help="of each parser; else each has its share of a full run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--offenders", type=Path, default=Path("offenders"), help="folder for what to look at")
    parser.add_argument("--results", type=Path, help=f"JSON for the counts; {RESULTS.name} is committed")
    parser.add_argument("--replay", type=Path, help="folder of an offender")
    options = parser.parse_args(arguments)
    if options.replay:
        return replay(options.replay)
    from tests.reliability.parsers import NAMES, parser_named
    from tests.reliability.workers import run_parser

    results: dict[str, Any] = {}
    for name in options.parsers or NAMES:
        started = time.monotonic()
        tally = Tally(name, options.seed, options.offenders)
        inputs = options.inputs or parser_named(name).inputs
        for index, result, peak_mb in run_parser(partial(parser_named, name), options.seed, inputs):
            tally.add(index, result, peak_mb)
        results[name] = tally.result(time.monotonic() - started)
        print(f"{name}: {json.dumps(results[name])}", flush=True)
        if options.results:
            write_results(options.results, results)
    offenders = sum(result["offenders"] for result in results.values())
    print(f"{sum(result['inputs'] for result in results.values())} inputs, {offenders} offenders")
    return int(offenders > 0)


class Tally:
    """Counts of one parser's outcomes, and a folder for each offender.

    Args:
        name: name of the parser.
        seed: seed of the run.
        folder: folder of the offenders.
    """

    def __init__(self, name: str, seed: int, folder: Path) -> None:
        self.name, self.seed, self.folder = name, seed, folder
        self.outcomes: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.offenders: Counter[str] = Counter()
        self.slowest, self.peak_mb = 0.0, 0.0

    def add(self, index: int, result: Any, peak_mb: float) -> None:
        """Counts the outcome of input `index`; saves an offender."""
        self.outcomes[result.outcome] += 1
        self.slowest, self.peak_mb = max(self.slowest, result.seconds), max(self.peak_mb, peak_mb)
        if result.outcome == "refused":
            self.errors[result.error] += 1
        if result.outcome == "offender":
            self.offenders[result.error] += 1
            if sum(self.offenders.values()) <= KEPT_OFFENDERS:
                self._save(index, result)

    def _save(self, index: int, result: Any) -> None:
        from tests.reliability.parsers import parser_named
        from tests.reliability.subject import Trials

        home = self.folder / f"{self.name.replace(' ', '_')}-{index}"
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            mutant = Trials(parser_named(self.name), Path(scratch) / "valid", self.seed).mutant(index)
        (home / mutant.path.name).write_bytes(mutant.content)
        about = {"parser": self.name, "seed": self.seed, "index": index, "case": mutant.case.folder.name,
                 "file": mutant.file, "resealed": mutant.resealed, "error": result.error,
                 "message": result.message[:500]}  # fmt: skip
        (home / "offender.json").write_text(json.dumps(about, indent=2) + "\n")

    def result(self, seconds: float) -> dict[str, Any]:
        """Returns the counts for the results file."""
        return {
            "seed": self.seed,
            "inputs": sum(self.outcomes.values()),
            "read": self.outcomes["read"],
            "refused": dict(sorted(self.errors.items())),
            "offenders": self.outcomes["offender"],
            "offenders_by_error": dict(sorted(self.offenders.items())),
            "slowest_seconds": round(self.slowest, 3),
            "peak_mb": round(self.peak_mb),
            "seconds": round(seconds, 1),
        }


def replay(folder: Path) -> int:
    """Feeds a saved offender to its parser again in this process and lets the error propagate."""
    from tests.reliability.parsers import parser_named
    from tests.reliability.subject import Trials, quiet

    quiet()
    about = json.loads((folder / "offender.json").read_text())
    subject = parser_named(about["parser"])
    with tempfile.TemporaryDirectory() as scratch:
        trials = Trials(subject, Path(scratch) / "valid", about["seed"])
        (case,) = {case.folder for case in trials.cases if case.folder.name == about["case"]}
        (case / about["file"]).write_bytes((folder / Path(about["file"]).name).read_bytes())
        if about["resealed"] and subject.reseal:
            subject.reseal(case, about["file"])
        print("read:", subject.read(case))
    return 0


def write_results(path: Path, results: dict[str, Any]) -> None:
    """Writes the counts with what they depend on; parsers that were not run keep their previous counts."""
    from importlib.metadata import version

    from tests.reliability.parsers import NAMES
    from tests.reliability.workers import LIMITS
    from tskd_monai.files.json_files import read_json, write_json
    from tskd_monai.training.record import package_versions

    former = read_json(path)["parsers"] if path.is_file() else {}
    known = {**former, **results}
    packages = ("nibabel", "itk-io", "pydicom", "pillow", "safetensors")
    content = {
        "command": "python -m tests.reliability.mutate_parsers --results tests/reliability/results/parsers.json",
        "limits": asdict(LIMITS),
        "inputs": sum(result["inputs"] for result in known.values()),
        "offenders": sum(result["offenders"] for result in known.values()),
        "parsers": {name: known[name] for name in NAMES if name in known},
        "versions": {**package_versions(), **{name: version(name) for name in packages}},
    }
    write_json(path, content)


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":  # peft writes sets as lists: else the valid inputs differ by process
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "PYTHONHASHSEED": "0"})
    sys.exit(main())

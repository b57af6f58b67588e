"""The committed results of a suite: `results/SUITE.jsonl`, one line per cell, sorted by name."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cells

from tskd_monai.files.atomic import atomic_path
from tskd_monai.files.json_files import parse_json


def results_file(suite: str) -> Path:
    """Returns the file with the results of a suite."""
    return cells.RESULTS / f"{suite}.jsonl"


def read_results(suite: str) -> dict[str, dict[str, Any]]:
    """Returns the results of a suite by cell."""
    path = results_file(suite)
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    results = [parse_json(line) for line in lines]
    return {result["cell"]: result for result in results}


def save_result(result: Mapping[str, Any]) -> None:
    """Adds the result of a cell to its suite's, replacing an earlier one, and counts the readings of `test`."""
    path = results_file(result["suite"])
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.parent):  # another process may be running other cells of the suite
        results = read_results(result["suite"])
        if result["score"] == "test":
            earlier = results.get(result["cell"])
            result = {**result, "readings": 1 + (earlier.get("readings", 1) if earlier else 0)}
        results[result["cell"]] = result
        lines = [json.dumps(results[name], allow_nan=False) + "\n" for name in sorted(results)]
        with atomic_path(path) as temporary:
            temporary.write_text("".join(lines), encoding="utf-8")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Locks a folder or a file, created if missing, until the block or the process ends."""
    if not path.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)

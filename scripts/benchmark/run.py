"""Runs the cells of a benchmark suite that have no result yet, several at a time, one thread each.

A cell plans its task, runs its stages by the bundles' own configs, and is scored on the suite's section. A stage shared
by several cells is run once. Results go to results/SUITE.jsonl; a cell whose settings have changed is run again. If
interrupted, the same command runs the remaining cells; with --work-dir it also reuses finished stages.
TSKD_REAL_DATA and TSKD_WEIGHTS name the folders of the datasets and the pre-trained weights; TSKD_PREDICTIONS names the
folder, outside the repository, that keeps the predictions.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from fnmatch import fnmatch
from pathlib import Path

from cells import RANDOM, SECOND, Cell, data_folder, load_cells, suite_names, weights_file
from results import read_results

logger = logging.getLogger("benchmark")


def unfinished(suite: str, cells: Sequence[Cell]) -> list[Cell]:
    """Returns the cells of a suite without a result for the current settings."""
    hashes = {name: result["config_hash"] for name, result in read_results(suite).items()}
    return [cell for cell in cells if hashes.get(cell.name) != cell.config_hash]


def run_cells(cells: list[Cell], jobs: int, work_dir: Path) -> list[str]:
    """Runs cells in `jobs` processes, saves their results and returns the names of those that failed."""
    failed: list[str] = []
    started = time.monotonic()
    # A fresh interpreter per process, which then runs many cells: the imports cost more than ten seconds.
    pool = ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"))
    with pool:
        futures = {pool.submit(_run_one, cell, work_dir): cell for cell in cells}
        for number, future in enumerate(as_completed(futures), 1):
            cell = futures[future]
            left = (time.monotonic() - started) / number * (len(cells) - number) / 60
            if error := future.exception():
                failed.append(cell.name)
                logger.error("%s failed: %s (log: %s)", cell.name, error, _log_file(cell, work_dir))
            else:
                score, seconds = future.result()
                line = "[%d/%d, %.0f min left] %s: %s Dice %.3f, %.0f s"
                logger.info(line, number, len(cells), left, cell.name, cell.score, score, seconds)
    return failed


def _run_one(cell: Cell, work_dir: Path) -> tuple[float, float]:
    from cell_run import run_cell

    log_file = _log_file(cell, work_dir)
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("w") as log:
        # Progress bars and messages of a bundle go to the log of the cell, not to the shared terminal.
        sys.stdout.flush()
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        started = time.monotonic()
        score = run_cell(cell, work_dir)
    return score, time.monotonic() - started


def _log_file(cell: Cell, work_dir: Path) -> Path:
    return work_dir / "logs" / f"{cell.suite}-{cell.name}.txt"


def check_protocol(cell: Cell) -> None:
    """Raises ValueError if a cell's predictions have no folder, or it would score patients that it must not."""
    from predictions import predictions_folder, scored_entries

    from tskd_monai.data.datalist import load_datalist

    if cell.score == "validation" or cell.protocol >= SECOND:
        scored_entries(cell, load_datalist(data_folder(cell.split) / "datalist.json", cell.split.fold))
    if cell.protocol >= SECOND:
        predictions_folder(cell)


def main() -> None:
    """Reads the command line and runs the cells."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", choices=suite_names())
    parser.add_argument("--cell", default="*", help="only cells whose name matches this pattern")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (default: one per core)")
    parser.add_argument("--work-dir", type=Path, help="folder of stages and logs (default: a temporary folder)")
    parser.add_argument("--predictions", type=Path, help="folder that keeps the predictions (or TSKD_PREDICTIONS)")
    parser.add_argument("--again", action="store_true", help="also run cells that have a result")
    parser.add_argument("--list", action="store_true", help="list the cells and exit")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    cells = [cell for cell in load_cells(args.suite) if fnmatch(cell.name, args.cell)]
    if not cells:
        parser.error(f"no cell of {args.suite} matches {args.cell}; see --list")
    left = cells if args.again else unfinished(args.suite, cells)
    if args.list:
        sys.stdout.writelines(f"{cell.name}{'' if cell in left else '  (finished)'}\n" for cell in cells)
        return
    if args.predictions:
        os.environ["TSKD_PREDICTIONS"] = str(args.predictions.resolve())
    try:
        for cell in left:
            data_folder(cell.split)
            check_protocol(cell)
            for stage in cell.stage.chain():
                weights_file(stage.settings.get("encoder_weights", RANDOM))
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))
    logger.info("%d cells, %d of them finished.", len(cells), len(cells) - len(left))
    os.environ.update({"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"})
    work_dir = args.work_dir or Path(tempfile.mkdtemp(prefix="tskd-benchmark-"))
    failed = run_cells(left, args.jobs, work_dir.resolve())
    if failed:
        raise SystemExit(f"{len(failed)} cells failed: {', '.join(failed)}. Run the same command to try them again.")


if __name__ == "__main__":
    main()

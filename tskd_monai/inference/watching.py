"""A run over the images that arrive in a folder, until it is stopped: the network stays loaded."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.utils.data import IterableDataset

from tskd_monai.files.option_path import text_path
from tskd_monai.files.redaction import redact_paths
from tskd_monai.inference.case_files import RECORDS
from tskd_monai.inference.case_records import DONE, read_case_record
from tskd_monai.inference.cases import CASE, Case, CaseDataset
from tskd_monai.inference.drop_folder import Arrival, DropFolder
from tskd_monai.inference.segmentation_run import SegmentationRun

logger = logging.getLogger(__name__)

LONGEST_POLL = 10.0
SCANNING, TABLES = 0.1, 0.05
"""Largest proportions of time that scanning and writing tables take while nothing else is to do."""


class WatchedRun(SegmentationRun):
    """Segments each image that has arrived completely in a folder and that has no record yet.

    A case that is done or has failed is segmented again only when its files, the weights, the task or the settings
    change. Tables list all records in the output folder, the newest of each name, also of images that are gone; they
    are written when nothing is to do, and at the end.

    Args:
        folder: folder to watch.
        settle: see `DropFolder`.
        patience: see `DropFolder`.
        irregular: see `DropFolder`.
        options: arguments of `SegmentationRun`; its cases are empty.

    Raises:
        FileNotFoundError: when the folder does not exist.
        ValueError: see `DropFolder`.
    """

    def __init__(
        self,
        folder: str | Path,
        settle: float = 60.0,
        patience: float = 900.0,
        irregular: str = "refuse",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.arriving = DropFolder(text_path(folder, "watch"), self.output_dir, settle, patience, irregular)
        self.in_progress: dict[int, Case] = {}
        self._sources: dict[str, str] = {}
        self._stop, self._changed = threading.Event(), True
        self._next_tables = 0.0
        self._told: dict[str, str] = {}

    def complete(self, segment_pending: Callable[[], None]) -> None:
        """Segments until SIGTERM or SIGINT arrives, then ends after the current case and writes the tables.

        Args:
            segment_pending: calls `segment` for each case that arrives.

        Raises:
            KeyboardInterrupt: after SIGINT.
        """
        logger.info("Watching the folder; Ctrl-C ends after the current case.")
        with signals_to(self._stop) as received:
            segment_pending()
        self._write_all_tables()
        if signal.SIGINT in received:
            raise KeyboardInterrupt

    def segment(self, engine: Any, batch: dict[str, Any]) -> Any:
        """Returns the output for one case, or None if it failed or the run is stopped."""
        if self._stop.is_set():  # read ahead: left for the next start
            return None
        return super().segment(engine, batch)

    def arrivals(self) -> Iterator[tuple[int, Case]]:
        """Yields the cases to segment, with a number each, until the run is stopped."""
        number = 0
        while not self._stop.is_set():
            started = time.monotonic()
            arrived = self.arriving.scan()
            scanning = time.monotonic() - started
            for arrival in arrived:
                if self._stop.is_set():
                    return
                if (case := self._taken(arrival)) is not None:
                    self.in_progress[number] = case
                    yield number, case
                    number += 1
            self._tell_what_waits()
            self._write_tables_if_idle()
            self._stop.wait(max(min(self.arriving.settle / 4, LONGEST_POLL), scanning / SCANNING))

    def _case_of(self, batch: dict[str, Any]) -> Case:
        return self.in_progress[int(batch[CASE][0])]

    def _taken(self, arrival: Arrival) -> Case | None:
        """Returns the case of an image that is neither in progress nor recorded."""
        if any(case["name"] == arrival.name for case in list(self.in_progress.values())):
            return None
        path = self._path_of(arrival)
        if path in self._unsaved or self._finished_record(path) is not None:
            return None
        case = self.arriving.case(arrival)
        self._paths[case["image"]] = path
        folder = os.path.commonpath([file.parent for file in arrival.files])
        self._sources[case["image"]] = folder if arrival.is_series else case["image"]
        return case

    def _path_of(self, arrival: Arrival) -> Path:
        identity = json.dumps({**self._common, "name": arrival.name, "files": arrival.identity}, sort_keys=True)
        return self.output_dir / RECORDS / f"{hashlib.sha256(identity.encode()).hexdigest()[:16]}.json"

    def _require_own_name(self, case: Case, name: str) -> None:
        """Does nothing: names are made of the UID, or of the path in the folder."""

    def _input_of(self, case: Case) -> str:
        return self._sources.pop(case["image"])

    def _progress(self, case: Case, status: str) -> None:
        """Removes what is kept of a finished case."""
        del self._paths[case["image"]]
        if Path(case["image"]).is_dir():
            shutil.rmtree(case["image"])  # links to the files
        for number in [number for number, other in list(self.in_progress.items()) if other is case]:
            del self.in_progress[number]
        self._changed = True
        if status == DONE:
            logger.info("%s: done.", case["name"])

    def _tell_what_waits(self) -> None:
        """Logs each series that is incomplete, once."""
        for name, reason in self.arriving.waiting.items():
            if self._told.get(name) != reason:
                redacted = redact_paths(reason, [self.arriving.folder], self.output_dir)
                logger.info("Series %s is incomplete and waits: %s", name, redacted)
        self._told = dict(self.arriving.waiting)

    def _write_tables_if_idle(self) -> None:
        if not self._changed or self.in_progress or time.monotonic() < self._next_tables:
            return
        started = time.monotonic()
        self._write_all_tables()
        ended = time.monotonic()
        self._next_tables = ended + max(LONGEST_POLL, (ended - started) / TABLES)

    def _write_all_tables(self) -> None:
        self._changed = False
        paths = sorted((self.output_dir / RECORDS).glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        newest: dict[str, dict[str, Any]] = {}
        for path in paths:
            try:
                record = read_case_record(path, self.task)
            except ValueError as error:
                logger.warning("The tables leave out a case: %s", error)
                continue
            newest.pop(record["name"], None)
            newest[record["name"]] = record
        try:
            self._write_tables(list(newest.values()))
        except OSError as error:
            logger.error("The tables were not written: %s", error)
            self._changed = True


class ArrivingCases(IterableDataset[Any]):
    """Reads the cases of a run as they arrive; an item is one of `CaseDataset`.

    Args:
        segmentation_run: the run.
        transform: transform from a case to the network's input.
    """

    def __init__(self, segmentation_run: WatchedRun, transform: Callable[[Any], Any]) -> None:
        self.run, self.transform = segmentation_run, transform

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yields items until the run is stopped."""
        for number, case in self.run.arrivals():
            yield {**CaseDataset([case], self.transform)[0], CASE: number}


@contextmanager
def signals_to(stop: threading.Event) -> Iterator[set[int]]:
    """Sets an event at the first SIGTERM or SIGINT; a second one acts as without. Yields the signals received."""
    received: set[int] = set()
    before: dict[int, Any] = {}

    def restore() -> None:
        while before:
            signal.signal(*before.popitem())

    def note(number: int, frame: Any) -> None:
        is_first = not received
        received.add(number)
        if is_first:  # another one may interrupt this handler, which holds the lock of the event
            stop.set()
            restore()

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            before[number] = signal.signal(number, note)
    try:
        yield received
    finally:
        restore()

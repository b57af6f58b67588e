"""A case is written while the next one is segmented."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

from ignite.engine import Engine, Events
from monai.data import DataLoader
from monai.transforms import SaveImaged

logger = logging.getLogger(__name__)


class WriterThread:
    """Runs writes in order, one at a time.

    At most one write waits behind the running one, so a slow disk holds the run up instead of filling the memory. A
    write that fails is logged and its error kept until somebody asks: a later write with `take_failure`, or `finish`.
    Attached to an engine as a handler, it lets no run end well before everything is on disk; after a run that fails
    elsewhere the process still ends the writes it has.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="writer")
        self._pending: list[Future[None]] = []
        self._failures: list[Exception] = []

    def attach(self, engine: Engine) -> None:
        """Finishes the writes at the end of a run."""
        # Not when it fails: ignite takes an error that has a handler for a handled one.
        engine.add_event_handler(Events.COMPLETED, self.finish)

    def submit(self, write: Callable[[], Any]) -> None:
        """Takes a write."""
        self._pending.append(self._executor.submit(self._run, write))
        wait(self._pending[:-2])
        self._pending = self._pending[-2:]

    def take_failure(self) -> Exception | None:
        """Returns the first error of the writes so far, or None, and forgets them all."""
        failures, self._failures = self._failures, []
        return failures[0] if failures else None

    def finish(self) -> None:
        """Waits for all writes.

        Raises:
            Exception: what the first failed one raised, unless it was taken.
        """
        wait(self._pending)
        self._pending = []
        if failure := self.take_failure():
            raise failure

    def _run(self, write: Callable[[], Any]) -> None:
        try:
            write()
        except Exception as error:
            logger.error(
                "Writing failed (%s).", type(error).__name__
            )  # the message may name a path; it comes to a record
            self._failures.append(error)


class SaveImageInBackgroundd(SaveImaged):
    """`SaveImaged` of label maps that hands the write to a thread; the dictionary goes on at once.

    It is a `SaveImaged` by class and has `SaveImage` in its name: MONAI Label, which goes by the one, and MONAI Deploy,
    which goes by the other, leave it out where they write themselves.

    Args:
        thread: that writes.
        key: of the label map.
        options: of `SaveImaged`.
    """

    def __init__(self, thread: WriterThread, key: str, options: Mapping[str, Any]) -> None:
        super().__init__(key, **options)
        self.thread = thread

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """Returns the dictionary as it is."""
        item = {key: data[key] for key in self.keys}
        self.thread.submit(lambda: SaveImaged.__call__(self, item))
        return dict(data)


class PrefetchingLoader(DataLoader):
    """A `DataLoader` that a thread keeps one batch ahead of; with a case per batch, two cases are in memory.

    MONAI's `ThreadDataLoader` ends the loop without a word when reading fails; here the error is raised where the
    batch was to come. A worker process would copy each volume between processes.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Yields the batches in order.

        Raises:
            Exception: whatever reading a batch raised, in its place.
        """
        batches, end = iter(super().__iter__()), object()
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="reader") as reader:
            ahead = reader.submit(next, batches, end)
            while (batch := ahead.result()) is not end:
                ahead = reader.submit(next, batches, end)
                yield batch

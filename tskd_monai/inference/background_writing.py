"""A study is written while the next one is segmented."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from ignite.engine import Engine, Events
from monai.transforms import SaveImaged

logger = logging.getLogger(__name__)


class WriterThread:
    """Runs writes in order, one at a time, and raises their errors in the run they belong to.

    At most one write waits behind the running one, so a slow disk holds the run up instead of filling the memory.
    Attached to an engine as a handler, it lets no run end well before everything is on disk; after a run that fails
    elsewhere the process still ends the writes it has.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="writer")
        self._pending: list[Future[Any]] = []

    def attach(self, engine: Engine) -> None:
        """Finishes the writes at the end of a run."""
        # Not when it fails: ignite takes an error that has a handler for a handled one.
        engine.add_event_handler(Events.COMPLETED, self.finish)

    def submit(self, write: Callable[[], Any]) -> None:
        """Takes a write.

        Raises:
            Exception: what an earlier write raised.
        """
        future = self._executor.submit(write)
        future.add_done_callback(_log_failure)
        self._pending.append(future)
        self._wait_for(self._pending[:-2])
        self._pending = self._pending[-2:]

    def finish(self) -> None:
        """Waits for all writes.

        Raises:
            Exception: what the first failed one raised.
        """
        pending, self._pending = self._pending, []
        self._wait_for(pending)

    @staticmethod
    def _wait_for(futures: list[Future[Any]]) -> None:
        for future in futures:
            future.result()


def _log_failure(future: Future[Any]) -> None:
    """Says at once what `submit` or `finish` will raise, if the run gets there."""
    if future.exception() is not None:
        logger.error("Writing failed: %s", future.exception())


class SaveInBackgroundd(SaveImaged):
    """`SaveImaged` of label maps that hands the write to a thread; the dictionary goes on at once.

    It is a `SaveImaged`, so tools that leave that transform out of a bundle, such as MONAI Label, leave this one out.

    Args:
        thread: that writes.
        key: of the label map.
        options: of `SaveImaged`.
    """

    def __init__(self, thread: WriterThread, key: str, options: Mapping[str, Any]) -> None:
        super().__init__(key, **options)
        self.thread = thread

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """Returns the dictionary as it is.

        Raises:
            Exception: what an earlier write raised.
        """
        item = {key: data[key] for key in self.keys}
        self.thread.submit(lambda: SaveImaged.__call__(self, item))
        return dict(data)

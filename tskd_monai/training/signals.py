"""A polite end: SIGINT and SIGTERM stop a training after the running step."""

from __future__ import annotations

import logging
import signal
from types import FrameType

from ignite.engine import Engine, Events

logger = logging.getLogger(__name__)


class StopOnSignal:
    """Ends the process with a message after the running iteration once SIGINT or SIGTERM has come.

    What is kept is the last whole epoch, which `EpochCheckpoint` has saved; a training goes on from there bit for
    bit. A second signal ends at once, as without this handler.
    """

    def __init__(self) -> None:
        self._received: int | None = None
        self._former: dict[int, signal.Handlers] = {}

    def attach(self, engine: Engine) -> None:
        """Watches while this trainer runs."""
        engine.add_event_handler(Events.STARTED, self._watch)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._stop)
        engine.add_event_handler(Events.COMPLETED, self._release)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._fail)

    def _watch(self, engine: Engine) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._former[number] = signal.signal(number, self._note)  # type: ignore[assignment]

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._received = number
        self._restore()

    def _restore(self) -> None:
        for number, former in self._former.items():
            signal.signal(number, former)
        self._former.clear()

    def _release(self, engine: Engine) -> None:
        self._restore()

    def _fail(self, engine: Engine, error: BaseException) -> None:
        self._restore()
        raise error  # ignite leaves that to whoever watches for errors

    def _stop(self, engine: Engine) -> None:
        if self._received is None:
            return
        # Epochs are numbered from 1 and this one is not over.
        whole = engine.state.epoch - 1
        kept = f"Epoch {whole} is saved" if whole else "No epoch was over yet, nothing is saved"
        logger.warning(
            "Stopped by %s in epoch %d. %s; run the same command to go on.",
            signal.Signals(self._received).name,
            engine.state.epoch,
            kept,
        )
        raise SystemExit(128 + self._received)

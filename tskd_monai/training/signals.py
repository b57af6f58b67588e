"""Clean termination with a message: after SIGINT or SIGTERM, or when memory is exhausted."""

from __future__ import annotations

import logging
import signal
import threading
import traceback
from pathlib import Path
from types import FrameType

from ignite.engine import Engine, Events

logger = logging.getLogger(__name__)

SIGNS_OF_NO_MEMORY = ("DataLoader worker (pid", "can't allocate memory", "MemoryError")


class StopOnSignal:
    """Ends the process with a message after the iteration in which SIGINT or SIGTERM arrives.

    `EpochCheckpoint` has saved the last completed epoch, from which the run resumes bit for bit. A second signal ends
    the process at once, as without this handler. When memory is exhausted, for which the system kills processes of the
    data loader, the message states the cause and the remedy.
    """

    def __init__(self) -> None:
        self._received: int | None = None
        self._previous: dict[int, signal.Handlers] = {}

    def attach(self, engine: Engine) -> None:
        """Handles signals while this trainer runs."""
        engine.add_event_handler(Events.STARTED, self._watch)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._stop)
        engine.add_event_handler(Events.COMPLETED, self._release)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._fail)

    def _watch(self, engine: Engine) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # Python delivers signals to the main thread, which is the server's when training runs in another
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._note)  # type: ignore[assignment]

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._received = number
        self._restore()

    def _restore(self) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)
        self._previous.clear()

    def _release(self, engine: Engine) -> None:
        self._restore()

    def _fail(self, engine: Engine, error: BaseException) -> None:
        self._restore()
        if not is_out_of_memory(error):
            raise error  # ignite leaves exceptions to handlers of EXCEPTION_RAISED
        if threading.current_thread() is threading.main_thread():
            # torch's handler would raise for the lost process of the data loader at any later point, in place of this.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        cause = error.__cause__ or error
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[-1].rstrip(". ")
        raise RuntimeError(
            f"A data-loading process was lost or memory was exhausted in epoch {engine.state.epoch}: {reason}. "
            f"{_kept(engine)}; lower --num_workers or --batch_size and run the same command to resume."
        ) from error

    def _stop(self, engine: Engine) -> None:
        if self._received is None:
            return
        logger.warning(
            "Stopped by %s in epoch %d. %s; run the same command to resume.",
            signal.Signals(self._received).name,
            engine.state.epoch,
            _kept(engine),
        )
        raise SystemExit(128 + self._received)


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether memory was exhausted, or a process of the data loader died, the usual consequence."""
    if isinstance(error, MemoryError) or any(sign in str(error) for sign in SIGNS_OF_NO_MEMORY):
        return True
    # Batches of a dead process can no longer be fetched, and this error may come first.
    frames = traceback.extract_tb(error.__traceback__)
    return isinstance(error, (OSError, EOFError)) and any(
        "multiprocessing" in Path(frame.filename).parts for frame in frames
    )


def _kept(engine: Engine) -> str:
    """Returns which epochs are saved, numbered from 1."""
    whole = engine.state.epoch - 1
    return f"Epoch {whole} is saved" if whole else "No epoch was complete, nothing is saved"

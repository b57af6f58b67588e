from __future__ import annotations

import logging
import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events

from tskd_monai.training.signals import StopOnSignal

WATCHED = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(autouse=True)
def former_handlers() -> Iterator[list[object]]:
    former = [signal.getsignal(number) for number in WATCHED]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    yield [signal.getsignal(number) for number in WATCHED]
    for number, handler in zip(WATCHED, former, strict=True):
        signal.signal(number, handler)


def trainer(number: signal.Signals | None = None, iteration: int = 1, times: int = 1) -> Engine:
    """Return an engine that sends itself a signal in one iteration."""
    engine = Engine(lambda engine, batch: None)
    StopOnSignal().attach(engine)

    @engine.on(Events.ITERATION_STARTED(once=iteration))
    def send() -> None:
        for _ in range(times if number else 0):
            signal.raise_signal(number)

    return engine


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_running_iteration_is_finished_first(
    number: signal.Signals, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    engine = trainer(number, iteration=4)
    done: list[int] = []
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda: done.append(engine.state.iteration))
    with caplog.at_level(logging.WARNING), pytest.raises(SystemExit) as ended:
        engine.run([0, 1], max_epochs=3)
    assert ended.value.code == code
    assert engine.state.iteration == 4
    assert f"Stopped by {number.name} in epoch 2. Epoch 1 is saved; run the same command to resume." in caplog.text


def test_no_message_of_saving_in_the_first_epoch(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), pytest.raises(SystemExit):
        trainer(signal.SIGTERM).run([0, 1], max_epochs=1)
    assert "No epoch was complete, nothing is saved" in caplog.text


def test_second_signal_ends_at_once() -> None:
    engine = trainer(signal.SIGINT, times=2)
    with pytest.raises(KeyboardInterrupt):
        engine.run([0], max_epochs=1)


def test_in_a_thread_of_a_server_training_runs_without_watching(former_handlers: list[object]) -> None:
    engine = trainer()
    thread = threading.Thread(target=engine.run, args=([0],), kwargs={"max_epochs": 2})
    thread.start()
    thread.join()
    assert engine.state.epoch == 2
    assert [signal.getsignal(number) for number in WATCHED] == former_handlers


def test_signals_are_given_back_at_the_end(former_handlers: list[object]) -> None:
    trainer().run([0], max_epochs=1)
    assert [signal.getsignal(number) for number in WATCHED] == former_handlers


def test_signals_are_given_back_after_an_error(former_handlers: list[object]) -> None:
    engine = trainer()

    @engine.on(Events.ITERATION_STARTED)
    def fail() -> None:
        raise ValueError("damaged image")

    with pytest.raises(ValueError, match="damaged image"):
        engine.run([0], max_epochs=1)
    assert [signal.getsignal(number) for number in WATCHED] == former_handlers


def failure_with_a_late_notice(answer: Connection) -> None:
    """Sends the message of a run whose lost worker is reported again, by torch's handler, while ignite logs the first.

    The handler is replaced by one that raises as torch's does.
    """

    def lost(number: int = 0, frame: object = None) -> None:
        raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Killed.")

    class LateNotice(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage().startswith("Engine run is terminating"):
                os.kill(os.getpid(), signal.SIGCHLD)

    engine = trainer()
    engine.logger.addHandler(LateNotice())
    engine.on(Events.ITERATION_STARTED)(lost)
    signal.signal(signal.SIGCHLD, lost)
    try:
        engine.run([0], max_epochs=1)
    except RuntimeError as error:
        answer.send(str(error))


def test_a_late_notice_of_a_lost_worker_does_not_replace_the_reason() -> None:
    context = multiprocessing.get_context("fork")
    answer, sender = context.Pipe(duplex=False)
    process = context.Process(target=failure_with_a_late_notice, args=(sender,))
    process.start()
    assert answer.poll(60)
    message = answer.recv()
    process.join()
    assert message.startswith("A data-loading process was lost or memory was exhausted in epoch 1: DataLoader worker ")


class Faulty(torch.utils.data.Dataset[torch.Tensor]):
    """Slices of which one ends the process that loads it, or requests more memory than there is."""

    def __init__(self, act: Callable[[], object]) -> None:
        self.act = act

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> torch.Tensor:
        if index == 2:
            self.act()
        return torch.zeros(1)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def take_too_much() -> torch.Tensor:
    return torch.empty(1 << 46, dtype=torch.uint8)


def take_too_much_with_numpy() -> np.ndarray:
    return np.ones(1 << 46, dtype=np.uint8)


def failure(act: Callable[[], object], workers: int, answer: Connection) -> None:
    """Sends the message that a training run over faulty slices ends with."""
    loader = torch.utils.data.DataLoader(Faulty(act), num_workers=workers)
    try:
        trainer().run(loader, max_epochs=2)
    except RuntimeError as error:
        answer.send(str(error))


@pytest.mark.parametrize(
    ("act", "workers", "reason"),
    [
        (die, 1, "DataLoader worker .*|.*Connection.*|EOFError"),
        (take_too_much, 1, r".*can't allocate memory.*"),
        (take_too_much, 0, r".*can't allocate memory.*"),
        (take_too_much_with_numpy, 0, r"Unable to allocate 64\.0 TiB.*"),
    ],
)
def test_memory_that_is_used_up_is_explained(act: Callable[[], object], workers: int, reason: str) -> None:
    # In a separate process: torch raises for a lost worker at an arbitrary later point of the process that lost it.
    context = multiprocessing.get_context("fork")
    answer, sender = context.Pipe(duplex=False)
    process = context.Process(target=failure, args=(act, workers, sender))
    process.start()
    assert answer.poll(60)
    message = answer.recv()
    process.join()
    expected = (
        rf"A data-loading process was lost or memory was exhausted in epoch 1: ({reason})\. No epoch was complete, "
    )
    assert re.match(expected + "nothing is saved; lower --num_workers or --batch_size and run the same", message)

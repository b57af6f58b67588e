"""Runs Python programs in forks of a process that has imported the slow packages once.

A new interpreter spends more than six seconds of CPU on importing torch and MONAI, and a run of the tests starts
hundreds of them. `python_command()` returns the path of an executable that takes the arguments of `python` and behaves
as `python` does: working directory, environment, standard streams, signals and exit status are the caller's. The
program itself runs in a fork of the server, as `__main__`. Nothing of this project is imported before the fork.

What a fork cannot show uses `sys.executable`: CPU seconds and memory of a process, its own process id, limits set on
the parent, killing whole process groups, and that the programs start at all (each bundle has one such test).
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import random
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock

PRELOADED = (
    "monai.bundle",
    "monai.engines",
    "monai.handlers",
    "nibabel",
    "pydicom",
    "safetensors.torch",
    "peft",
    "transformers.models.sam.modeling_sam",
    "diffusers.models.unets.unet_2d",
    "diffusers.schedulers.scheduling_ddim",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
)
"""Third-party packages only: a program must find this project through its own environment."""
LONGEST_START = 240
HOLD = b"hold"
CLIENT = Path(__file__).with_name("fork_client.py")


@cache
def python_command() -> str:
    """Returns the path of an executable that replaces `sys.executable`; starts the server if there is none.

    All workers of one run of the tests share a server, which ends with the last of them.
    """
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    folder = Path(tempfile.gettempdir()) / f"tskd-fork-server-{run}"
    folder.mkdir(mode=0o700, exist_ok=True)
    with FileLock(folder / "lock"):
        lease = _connect(folder / "socket") or _start(folder)
    lease.sendall(HOLD)
    _LEASES.append(lease)
    return str(folder / "python")


_LEASES: list[socket.socket] = []
"""Connections that keep the server alive; the end of this process closes them."""


def _connect(path: Path) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(path))
    except OSError:
        connection.close()
        return None
    return connection


def _start(folder: Path) -> socket.socket:
    """Start the server in a session of its own, and return a connection to it."""
    folder.mkdir(mode=0o700, exist_ok=True)  # a server that ends removes it
    (folder / "socket").unlink(missing_ok=True)
    client = folder / "python"
    client.write_text(f"#!{sys.executable} -IS\n{CLIENT.read_text(encoding='utf-8')}", encoding="utf-8")
    client.chmod(0o700)
    server = [sys.executable, __file__, str(folder)]
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(
            server, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, close_fds=True
        )
    deadline = time.monotonic() + LONGEST_START
    while (connection := _connect(folder / "socket")) is None:
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"Expected the fork server to start, found:\n{(folder / 'log.txt').read_text()[-3000:]}")
        time.sleep(0.05)
    process.returncode = 0  # it ends by itself: suppresses the warning that it is still running
    return connection


def serve(folder: Path) -> None:
    """Forks a process for each connection until the last worker of the tests has ended."""
    import torch

    for name in PRELOADED:
        with contextlib.suppress(ImportError):  # of an extra that is not installed
            importlib.import_module(name)
    torch.set_num_threads(1)  # a pool of threads would not survive the fork
    sys.executable = str(folder / "python")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    gc.freeze()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "starting"))
    listener.listen(64)
    (folder / "starting").rename(folder / "socket")
    leases: set[socket.socket] = set()
    begun = False
    while leases or not begun:
        ready, _, _ = select.select([listener, *leases], [], [])
        for source in ready:
            if source is not listener:
                leases.discard(source)
                source.close()
                continue
            connection, _ = listener.accept()
            message, streams, _, _ = socket.recv_fds(connection, 1 << 20, 3)
            if message == HOLD:
                leases.add(connection)
                begun = True
                continue
            if message and os.fork() == 0:
                listener.close()
                for lease in leases:
                    lease.close()
                _watch(connection, message, streams)
            connection.close()
            for stream in streams:
                os.close(stream)
    shutil.rmtree(folder)


def _watch(connection: socket.socket, message: bytes, streams: list[int]) -> None:
    """Runs a program in a child, forwards signals to it, and reports to the client how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    length = int.from_bytes(message[:8], "big")
    while len(message) < length + 8:
        message += connection.recv(1 << 20)
    child = os.fork()
    if child == 0:
        connection.close()
        _become(json.loads(message[8:]), streams)
    for stream in streams:
        os.close(stream)
    ended = os.pidfd_open(child)
    while ended not in select.select([connection, ended], [], [])[0]:
        numbers = connection.recv(16)
        for number in numbers or [signal.SIGKILL]:  # a client that has gone was killed
            os.kill(child, number)
        if not numbers:
            break
    _, status = os.waitpid(child, 0)
    with contextlib.suppress(OSError):
        connection.sendall(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def _become(request: dict[str, Any], streams: list[int]) -> None:
    """Run a program as a new interpreter would, and end this process with its exit status."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin, sys.stdout, sys.stderr = (
        open(number, mode, buffering=-1 if number == 0 else 1, encoding="utf-8", errors=errors, closefd=False)  # noqa: SIM115
        for number, mode, errors in ((0, "r", "strict"), (1, "w", "strict"), (2, "w", "backslashreplace"))
    )
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    os.umask(request["umask"])
    importlib.invalidate_caches()
    _reseed()
    code = _exit_code(request["arguments"])
    with contextlib.suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _reseed() -> None:
    """Draws the random numbers from the system that a new process draws."""
    import numpy as np
    import torch

    random.seed()
    np.random.seed()  # noqa: NPY002
    torch.seed()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


def _exit_code(arguments: list[str]) -> int:
    try:
        _run(arguments)
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            return (error.code or 0) & 0xFF
        print(error.code, file=sys.stderr)
        return 1
    except BaseException as error:
        try:
            sys.excepthook(type(error), error, error.__traceback__)
        except BaseException:
            traceback.print_exc()
        return 1
    return 0


def _run(arguments: list[str]) -> None:
    """Run `-m MODULE`, `-c PROGRAM` or `FILE`, each with arguments, as `__main__`."""
    found = list(arguments)
    while found and found[0] in ("-u", "-P"):
        found.pop(0)
    kind, name = ("file", found.pop(0)) if not found[0].startswith("-") else (found.pop(0), found.pop(0))
    place = {"-m": str(Path.cwd()), "-c": "", "file": str(Path(name).resolve().parent)}[kind]
    added = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [place, *added, *(path for path in sys.path[1:] if path not in _OWN_PATHS)]
    sys.argv[:] = [name if kind == "file" else kind, *found]
    if kind == "-m":
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    elif kind == "-c":
        main = type(sys)("__main__")
        sys.modules["__main__"] = main
        exec(compile(name, "<string>", "exec"), main.__dict__)
    else:
        runpy.run_path(name, run_name="__main__")


_OWN_PATHS = {path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path}


if __name__ == "__main__":
    serve(Path(sys.argv[1]))

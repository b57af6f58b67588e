"""A program in a fork behaves as in a new interpreter: arguments, streams, paths, signals and exit status."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.fork_server import python_command

LOOK = """
import json, os, random, sys
import numpy as np, torch
print(json.dumps({"argv": sys.argv, "path": sys.path[0], "folder": os.getcwd(), "name": __name__,
                  "own": [name for name in sys.modules if name.startswith(("tskd_monai", "tests"))],
                  "mask": os.umask(0), "marker": os.environ.get("MARKER"), "home": os.environ.get("HOME"),
                  "threads": torch.get_num_threads(), "input": sys.stdin.read()}))
print(random.random(), np.random.rand(), torch.initial_seed(), file=sys.stderr)
"""


def python(*arguments: str, command: str | None = None, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([command or python_command(), *arguments], capture_output=True, text=True, **options)  # type: ignore[call-overload, no-any-return]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["-m", "-c", "file"])
def test_a_program_sees_what_a_new_interpreter_shows_it(tmp_path: Path, kind: str) -> None:
    (tmp_path / "look.py").write_text(LOOK)
    program = {"-m": ["-m", "look"], "-c": ["-c", LOOK], "file": ["look.py"]}[kind]
    options = {"cwd": tmp_path, "env": {"PATH": os.environ["PATH"], "MARKER": "here", "OMP_NUM_THREADS": "1"}}
    forked = [python(*program, "a b", input="sent", **options) for _ in range(2)]
    real = python(*program, "a b", command=sys.executable, input="sent", **options)
    assert forked[0].stdout == real.stdout
    assert json.loads(real.stdout)["input"] == "sent" and json.loads(real.stdout)["own"] == []
    drawn = [done.stderr.split()[-3:] for done in forked]  # what every process draws separately
    assert not set(drawn[0]) & set(drawn[1])


@pytest.mark.parametrize(
    "program",
    [
        "import sys; sys.exit(3)",
        "import sys; sys.exit('refused')",
        "import sys; sys.exit()",
        "import atexit; atexit.register(print, 'bye'); print('end', end='')",
        "import threading, time; threading.Thread(target=lambda: (time.sleep(0.1), print('late'))).start()",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
        "import sys; sys.excepthook = lambda *error: print(error[1]); 1 / 0",
    ],
)
def test_it_ends_as_a_new_interpreter_does(program: str) -> None:
    forked, real = python("-c", program), python("-c", program, command=sys.executable)
    assert (forked.returncode, forked.stdout, forked.stderr) == (real.returncode, real.stdout, real.stderr)


def test_an_error_ends_in_its_traceback() -> None:
    forked = python("-c", "raise ValueError('why')")
    assert forked.returncode == 1
    assert forked.stderr.startswith("Traceback") and forked.stderr.endswith("ValueError: why\n")


def test_processes_that_it_starts_are_forks_too() -> None:
    program = (
        "import subprocess, sys; print(subprocess.check_output([sys.executable, '-c', 'print(6 * 7)'], text=True))"
    )
    assert python("-c", program).stdout.split() == ["42"]


WAIT = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))
open(sys.argv[1], "w").close()
while True:
    time.sleep(0.01)
    open(sys.argv[1], "w").close()
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 9), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_signal_reaches_the_program(tmp_path: Path, number: signal.Signals, status: int) -> None:
    process = subprocess.Popen([python_command(), "-c", WAIT, str(tmp_path / "alive")])
    deadline = time.monotonic() + 60
    while not (tmp_path / "alive").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    assert process.wait(60) == status
    time.sleep(0.5)
    (tmp_path / "alive").unlink()
    time.sleep(0.2)
    assert not (tmp_path / "alive").exists()

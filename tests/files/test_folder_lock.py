"""A folder has one owner at a time, however that owner ends."""

from __future__ import annotations

import errno
import json
import logging
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock

from tskd_monai.files.folder_lock import LOCK_FILE, FolderInUseError, hold_folder, hold_shard, hold_tables
from tskd_monai.files.shard import Shard

HOLD = """
import sys, weakref

class Other: ...

other = Other()
weakref.finalize(other, int)  # from now on all finalizers run after what later modules do at the end, as with torch
from tskd_monai.files.folder_lock import hold_folder
lock = hold_folder(sys.argv[1])
print("held", flush=True)
sys.stdin.readline()
"""
HOLD_AND_FORK = """
import os, sys, time
from tskd_monai.files.folder_lock import hold_folder
lock = hold_folder(sys.argv[1])
child = os.fork()
if not child:
    del lock  # as the collector of a data-loading process may
    print(os.getpid(), flush=True)
    time.sleep(60)
sys.stdin.readline()
"""


@contextmanager
def other_process(folder: Path, program: str = HOLD) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Starts a process that locks a folder, and yields the process and its first line."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def test_a_second_process_gets_an_error_naming_who_holds_the_folder(tmp_path: Path) -> None:
    with other_process(tmp_path / "student") as (process, line):
        assert line == "held"
        with pytest.raises(FolderInUseError) as raised:
            hold_folder(tmp_path / "student")
    message = str(raised.value)
    assert f"folder student to be free, found process {process.pid} on host {platform.node()} (since 20" in message
    assert message.endswith("wait until it has ended, end it, or choose another output folder.")
    assert "\n" not in message and str(tmp_path) not in message


def test_the_lock_of_a_killed_process_does_not_block(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with other_process(tmp_path) as (process, _):
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (tmp_path / LOCK_FILE).is_file()
        with caplog.at_level(logging.DEBUG), hold_folder(tmp_path):
            assert f'"process": {os.getpid()}' in (tmp_path / LOCK_FILE).read_text()
        assert [record.levelno for record in caplog.records if record.name.startswith("tskd")] == [logging.INFO]
        assert f"was left by process {process.pid} on host" in caplog.text


def test_processes_forked_by_a_killed_one_hold_nothing(tmp_path: Path) -> None:
    with other_process(tmp_path, HOLD_AND_FORK) as (process, child):
        process.send_signal(signal.SIGKILL)
        process.wait()
        try:
            os.kill(int(child), 0)  # it is alive
            lock = hold_folder(tmp_path)
            lock.release()
        finally:
            os.kill(int(child), signal.SIGKILL)


def test_a_forked_process_does_not_release_its_parents_folder(tmp_path: Path) -> None:
    with other_process(tmp_path, HOLD_AND_FORK) as (_, child):
        os.kill(int(child), signal.SIGKILL)
        with pytest.raises(FolderInUseError, match="found process"):
            hold_folder(tmp_path)


def test_a_process_that_ends_leaves_no_file(tmp_path: Path) -> None:
    with other_process(tmp_path / "run") as (process, _):
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.wait() == 0
    assert not (tmp_path / "run").exists()


def test_one_process_may_hold_a_folder_twice_and_folders_in_it(tmp_path: Path) -> None:
    first, second, inner = hold_folder(tmp_path), hold_folder(tmp_path), hold_folder(tmp_path / "student")
    first.release()
    first.release()
    with pytest.raises(subprocess.CalledProcessError):
        subprocess.run(
            [sys.executable, "-c", HOLD, str(tmp_path)], check=True, input="\n", text=True, capture_output=True
        )
    second.release()
    assert not (tmp_path / LOCK_FILE).exists() and (tmp_path / "student" / LOCK_FILE).exists()
    inner.release()
    with other_process(tmp_path) as (_, line):
        assert line == "held"


def test_a_folder_is_released_with_the_last_reference_or_after_an_error(tmp_path: Path) -> None:
    lock = hold_folder(tmp_path)
    del lock
    with pytest.raises(KeyError), hold_folder(tmp_path):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_made_for_nothing_goes_and_any_other_stays(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for name in ("there", "used", "unused"):
        with hold_folder(tmp_path / name):
            if name == "used":
                (tmp_path / name / "result.json").touch()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there", "used"]


def test_no_path_and_no_user_is_written_down(tmp_path: Path) -> None:
    with hold_folder(tmp_path):
        content = (tmp_path / LOCK_FILE).read_text()
    assert "/" not in content and set(json.loads(content)) == {"process", "host", "since"}


def test_a_folder_that_takes_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(OSError, match="Expected room and permission to write run, found: File exists"):
        hold_folder(tmp_path / "run")


def test_a_file_system_without_locks_gives_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(self: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(FileLock, "_acquire", refuse)
    with hold_folder(tmp_path):
        assert not (tmp_path / LOCK_FILE).exists()
    assert "has no locks: make sure that no other process writes to it" in caplog.text


HOLD_SHARD = """
import sys
from tskd_monai.files.folder_lock import hold_shard
from tskd_monai.files.shard import Shard
lock = hold_shard(sys.argv[1], Shard(1, 2))
print("held", flush=True)
sys.stdin.readline()
"""


def test_shards_share_a_folder_with_each_other_only(tmp_path: Path) -> None:
    with other_process(tmp_path, HOLD_SHARD) as (process, _):
        with hold_shard(tmp_path, Shard(2, 2)), hold_tables(tmp_path):
            pass
        for refused in (lambda: hold_shard(tmp_path, Shard(1, 2)), lambda: hold_shard(tmp_path, Shard(2, 3)),
                        lambda: hold_folder(tmp_path)):  # fmt: skip
            with pytest.raises(FolderInUseError, match=f"found process {process.pid} on host .* writing to it"):
                refused()
        process.kill()
        process.wait()
        with hold_shard(tmp_path, Shard(2, 3)):
            pass
    assert list(tmp_path.iterdir()) == []


def test_a_shard_does_not_start_while_the_whole_folder_is_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tskd_monai.files.folder_lock.SECONDS_TO_START", 0.1)
    with other_process(tmp_path), pytest.raises(FolderInUseError):
        hold_shard(tmp_path, Shard(1, 2))


TAKE_TURNS = """
import sys
from pathlib import Path
from tskd_monai.files.folder_lock import hold_tables
folder = Path(sys.argv[1])
for _ in range(60):
    with hold_tables(folder):
        count = folder / "count"
        count.write_text(str(int(count.read_text()) + 1))
"""


def test_processes_that_wait_for_the_tables_write_one_after_the_other(tmp_path: Path) -> None:
    (tmp_path / "count").write_text("0")
    writers = [subprocess.Popen([sys.executable, "-c", TAKE_TURNS, str(tmp_path)]) for _ in range(3)]
    assert [process.wait() for process in writers] == [0, 0, 0]
    assert (tmp_path / "count").read_text() == "180"

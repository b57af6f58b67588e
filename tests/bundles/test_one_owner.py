"""Two runs on one output folder: the second ends with one line; the lock of a killed run does not block the next."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.bundles.trainings import BUNDLES, SHORT, TRAININGS, Training, start, write_patients
from tests.support.fork_server import python_command
from tskd_monai.files.folder_lock import LOCK_FILE

pytestmark = pytest.mark.slow

HOLD = """
import sys
from tskd_monai.files.folder_lock import hold_folder
lock = hold_folder(sys.argv[1])
print("held", flush=True)
sys.stdin.readline()
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_patients(tmp_path_factory.mktemp("owners"))


@contextmanager
def held_by_another(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    try:
        assert process.stdout.readline() == b"held\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("training", TRAININGS, ids=[training.name for training in TRAININGS])
def test_a_second_training_is_refused_before_it_writes(study: Path, tmp_path: Path, training: Training) -> None:
    with held_by_another(tmp_path / "out") as process:
        before = content(tmp_path / "out")
        with pytest.raises(SystemExit, match=f"folder out to be free, found process {process.pid} on host .*since"):
            start(training, study, tmp_path / "out")
        assert content(tmp_path / "out") == before


def test_the_command_ends_in_one_line_and_a_dry_run_looks_on(study: Path, tmp_path: Path) -> None:
    training = TRAININGS[-1]
    with held_by_another(tmp_path / "out") as process:
        start(training, study, tmp_path / "out", training.dry_run)
        options = {**SHORT, "datalist": study / "datalist.json", "output_dir": tmp_path / "out"}
        ended = subprocess.run(
            [python_command(), "-m", "monai.bundle", "run", "--bundle_root", str(BUNDLES / "segmentation")]
            + ["--config_file", str(BUNDLES / "segmentation" / "configs" / "train.json")]
            + [part for name, value in options.items() for part in (f"--{name}", str(value))]
            + ["--task", str(study / "task.json")],
            capture_output=True,
            text=True,
        )
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert f"found process {process.pid} on host" in ended.stderr.strip().splitlines()[-1]


def test_what_a_killed_training_held_is_taken_over_and_given_back(study: Path, tmp_path: Path) -> None:
    with held_by_another(tmp_path / "out") as process:
        process.kill()
        process.wait()
        assert (tmp_path / "out" / LOCK_FILE).is_file()
        start(TRAININGS[-1], study, tmp_path / "out", max_epochs=1)
        assert (tmp_path / "out" / "model.pt").is_file()
        assert not (tmp_path / "out" / LOCK_FILE).exists()
    start(TRAININGS[-1], study, tmp_path / "out", max_epochs=1)  # again, in the same process
    with held_by_another(tmp_path / "out"):
        assert (tmp_path / "out" / LOCK_FILE).is_file()

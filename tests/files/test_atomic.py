from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.support.paths import ROOT
from tskd_monai.files.atomic import atomic_path, require_writable, write_once
from tskd_monai.files.json_files import read_json, write_json


def test_a_file_appears_whole_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "volume.nii.gz"
    with atomic_path(target) as temporary:
        assert temporary.parent == target.parent and temporary.name.endswith(".nii.gz")
        temporary.write_text("first")
        assert not target.exists()
    assert [path.name for path in target.parent.iterdir()] == ["volume.nii.gz"]
    assert target.read_text() == "first"


def _write_half(target: Path) -> None:
    with atomic_path(target) as temporary:
        temporary.write_text("half")
        raise OSError("disk full")


def test_a_failing_writer_keeps_the_former_file(tmp_path: Path) -> None:
    target = tmp_path / "record.json"
    target.write_text("former")
    with pytest.raises(OSError, match="disk full"):
        _write_half(target)
    assert target.read_text() == "former"
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]


def test_a_writer_that_writes_nothing_is_detected(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="out.bin"), atomic_path(tmp_path / "out.bin"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_json_comes_back_equal(tmp_path: Path) -> None:
    content = {"b": [1, 2.5, None], "a": {"µ": "Niere"}}
    write_json(tmp_path / "x.json", content)
    assert read_json(tmp_path / "x.json") == content
    assert list(read_json(tmp_path / "x.json")) == ["b", "a"]  # the order is the writer's


def test_nan_is_refused_and_the_former_file_stays(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"dice": 0.5})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"dice": float("nan")})
    assert read_json(tmp_path / "x.json") == {"dice": 0.5}


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"Expected a JSON file at .*gone\.json, found none"):
        read_json(tmp_path / "gone.json")


@pytest.mark.parametrize("content", [b'{"a": 1,', b"\xff\xfe\x00"])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"Expected JSON in .*bad\.json: "):
        read_json(tmp_path / "bad.json")


def leave_temporary(folder: Path, name: str = "last.pt") -> Path:
    """Return the temporary file of a process that was killed while it wrote."""
    program = (
        "import os, signal, sys; from tskd_monai.files.atomic import atomic_path\n"
        "with atomic_path(sys.argv[1]) as path:\n"
        "    path.write_text('half'); print(path.name, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    command = [sys.executable, "-c", program, str(folder / name)]
    killed = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    left = folder / killed.stdout.strip()
    assert left.read_text() == "half"
    return left


def test_what_a_killed_process_left_is_removed_by_the_next_one(tmp_path: Path) -> None:
    left = leave_temporary(tmp_path)
    write_json(tmp_path / "record.json", {})
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"], left


def test_files_being_written_by_a_running_process_are_kept(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "a.txt") as own:
        own.touch()
        host, parent = own.name.split(".")[1], os.getppid()
    others = [tmp_path / "b" / f".{host}.{parent}.tmp.last.pt", tmp_path / "b" / f".00000000.{2**22}.tmp.last.pt"]
    yesterday = others[1].with_name(".00000001.1.tmp.last.pt")
    (tmp_path / "b").mkdir()
    for path in [*others, yesterday]:
        path.touch()
    os.utime(yesterday, (0, 0))
    write_json(tmp_path / "b" / "record.json", {})
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == sorted(
        [*(p.name for p in others), "record.json"]
    )


def save_tensor(path: Path) -> None:
    torch.save(torch.zeros(100_000), path)


def save_arrays(path: Path) -> None:
    np.savez(path, values=np.zeros(100_000))


def save_image(path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (500, 500), dtype=np.uint8)).save(path)


def save_volume(path: Path) -> None:
    nib.save(nib.Nifti1Image(np.random.default_rng(0).random((50, 50, 50)), np.eye(4)), path)


def save_safetensors(path: Path) -> None:
    save_file({"weight": torch.zeros(100_000)}, path)


WRITERS = {
    "a.pt": save_tensor,
    "a.npz": save_arrays,
    "a.png": save_image,
    "a.nii.gz": save_volume,
    "a.safetensors": save_safetensors,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_named_whoever_writes(tmp_path: Path, small_files: None, name: str) -> None:
    (tmp_path / name).write_text("former")
    message = rf"Expected room and permission to write {name}, found: File too large; free some space or choose"
    with pytest.raises(OSError, match=message), atomic_path(tmp_path / name) as temporary:
        WRITERS[name](temporary)
    assert (tmp_path / name).read_text() == "former"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def _fail(path: Path) -> None:
    path.write_text("half")
    raise RuntimeError("no such layer")


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no such layer"), atomic_path(tmp_path / "a.pt") as temporary:
        _fail(temporary)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def read_only() -> Iterator[Path]:
    """A folder that this process cannot write to, even as root."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o555)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        yield Path(folder)
        os.seteuid(user)


def test_a_read_only_folder_is_named_before_work_is_done(read_only: Path) -> None:
    with pytest.raises(OSError, match="permission to write output, found: Permission denied; free some"):
        require_writable(read_only / "output")


def test_a_file_instead_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "output").touch()
    with pytest.raises(OSError, match="permission to write output, found: File exists"):
        require_writable(tmp_path / "output")


def test_a_writable_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    require_writable(tmp_path / "new" / "output")
    assert list((tmp_path / "new" / "output").iterdir()) == []


def test_the_first_of_several_writers_stays(tmp_path: Path) -> None:
    for text in ("first", "second"):
        write_once(tmp_path / "a.txt", text)
    assert (tmp_path / "a.txt").read_text() == "first" and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(OSError, match=r"permission to write b\.txt, found"):
        write_once(tmp_path / "a.txt" / "b.txt", "b")

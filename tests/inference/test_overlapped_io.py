from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from monai.transforms import SaveImaged

from tskd_monai.data.task import Task
from tskd_monai.inference.outputs import save_segmentation
from tskd_monai.inference.overlapped_io import WriterThread


def label_map(name: str) -> dict[str, MetaTensor]:
    meta = {"original_affine": np.eye(4), "spatial_shape": np.array([4, 5, 6]), "output_name": name}
    return {"pred": MetaTensor(torch.ones(1, 4, 5, 6, dtype=torch.uint8), affine=np.eye(4), meta=meta)}


def fail() -> None:
    raise OSError("No space left on device")


def test_run_ends_when_all_is_written(make_task: Callable[..., Task], tmp_path: Path) -> None:
    thread = WriterThread()
    save = save_segmentation(make_task(), tmp_path, thread, compression_level=9)
    assert isinstance(save, SaveImaged)  # MONAI Label drops it by this
    engine = Engine(lambda engine, name: save(label_map(name)))
    thread.attach(engine)
    engine.run(["a", "b", "c"], max_epochs=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a_seg.nii.gz", "b_seg.nii.gz", "c_seg.nii.gz"]
    assert np.asarray(nib.load(tmp_path / "c_seg.nii.gz").dataobj).all()


def test_write_goes_on_behind_the_run_and_two_are_the_most() -> None:
    thread, gate = WriterThread(), threading.Event()
    done: list[int] = []
    for number in range(2):
        thread.submit(lambda number=number: (gate.wait(30), done.append(number)))  # type: ignore[misc]
    assert done == []
    gate.set()
    thread.submit(lambda: done.append(2))
    assert done[0] == 0
    thread.finish()
    assert done == [0, 1, 2]


def test_failed_write_fails_the_run(caplog: pytest.LogCaptureFixture) -> None:
    thread = WriterThread()
    engine = Engine(lambda engine, batch: thread.submit(fail))
    thread.attach(engine)
    with pytest.raises(OSError, match="No space left on device"):
        engine.run([0], max_epochs=1)
    assert "Writing failed (OSError)" in caplog.text


def test_a_later_write_can_take_the_failure_of_an_earlier_one() -> None:
    thread = WriterThread()
    taken: list[Exception | None] = []
    for write in (fail, lambda: taken.append(thread.take_failure()), lambda: taken.append(thread.take_failure())):
        thread.submit(write)
    thread.finish()
    assert isinstance(taken[0], OSError) and taken[1] is None


def test_run_that_fails_elsewhere_raises_its_own_error() -> None:
    def step(engine: Engine, batch: int) -> None:
        raise ValueError("damaged")

    engine = Engine(step)
    WriterThread().attach(engine)
    with pytest.raises(ValueError, match="damaged"):
        engine.run([0], max_epochs=1)

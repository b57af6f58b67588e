"""How many of our modules one volume passes through, from its path to its segmentation: what a reader must follow."""

from __future__ import annotations

import gc
import inspect
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from monai.bundle import ConfigWorkflow

import tskd_monai
from tests.inference.phantom_scan import dicom, nifti
from tests.support.paths import BUNDLES

PACKAGE = Path(tskd_monai.__file__).parent
STUDENT = BUNDLES / "segmentation"
DICOM_ROOM, TRUST_ROOM = "data/dicom/", "trust/"
MOST_MODULES, MOST_OF_DICOM, MOST_OF_TRUST = 20, 10, 11


@contextmanager
def entered_modules() -> Iterator[set[str]]:
    """Collects the package's files whose functions are called meanwhile, in any thread started in it."""
    found: set[str] = set()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        is_function = bool(code.co_flags & inspect.CO_OPTIMIZED)  # no module and no class body, which imports run
        if event == "call" and is_function and code.co_filename.startswith(f"{PACKAGE}/"):
            found.add(Path(code.co_filename).relative_to(PACKAGE).as_posix())

    gc.collect()  # what earlier tests have left, such as a lock, is released now and not in the meantime
    before = sys.getprofile()
    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield found
    finally:
        sys.setprofile(before)
        threading.setprofile(None)  # type: ignore[arg-type]


def modules_of_a_run(configs: list[str], image: Path, output_dir: Path) -> set[str]:
    """Segments an image with the shipped student; returns the modules entered once everything is built."""
    workflow = ConfigWorkflow(
        [str(STUDENT / "configs" / name) for name in configs],
        workflow_type="infer",
        logging_file=False,
        bundle_root=str(STUDENT),
        image=str(image),
        output_dir=str(output_dir),
        device="cpu",
        engine="torch",
    )
    workflow.initialize()
    for part in ("guards", "evaluator"):
        workflow.parser.get_parsed_content(part)
    with entered_modules() as found:
        workflow.run()
    workflow.finalize()
    return found


def test_a_nifti_volume_passes_few_modules(tmp_path: Path) -> None:
    found = modules_of_a_run(["inference.json"], nifti(tmp_path).path, tmp_path / "out")
    assert {"data/nifti.py", "inference/label_map_inferer.py", "inference/segmentation_run.py"} <= found
    trust = {name for name in found if name.startswith(TRUST_ROOM)}
    assert len(trust) <= MOST_OF_TRUST, sorted(trust)
    assert len(found - trust) <= MOST_MODULES, sorted(found - trust)


def test_a_dicom_series_passes_the_same_and_the_room_of_dicom(tmp_path: Path) -> None:
    pytest.importorskip("highdicom")
    dicom(tmp_path / "series")
    found = modules_of_a_run(["inference.json", "dicom_seg.json"], tmp_path / "series", tmp_path / "out")
    room = {name for name in found if name.startswith(DICOM_ROOM)}
    assert {"data/dicom/reader.py", "data/dicom/seg_writer.py"} <= room
    assert len(room) <= MOST_OF_DICOM, sorted(room)
    others = {name for name in found - room if not name.startswith(TRUST_ROOM)}
    assert len(others) <= MOST_MODULES, sorted(others)
    assert not {"data/dicom/rtstruct_writer.py", "data/dicom/overlay_writer.py", "data/dicom/report_writer.py"} & room

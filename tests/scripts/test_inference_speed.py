"""The benchmark of inference runs the bundle, and the pipeline of stock transforms that it is compared with."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.support.fork_server import python_command
from tests.support.paths import ROOT
from tskd_monai.bundle.student import write_student_bundle
from tskd_monai.data.task import Intensity, Task
from tskd_monai.files.checksum import file_sha256
from tskd_monai.files.json_files import read_json
from tskd_monai.inference.export import parity_table
from tskd_monai.networks.students import build_student

pytestmark = pytest.mark.slow

STUDENT = "compact_unet_small"


@pytest.fixture
def scan_and_bundle(tmp_path: Path, make_task: Callable[..., Task]) -> tuple[Path, Path]:
    """A small CT, and a student of random weights for its field of view."""
    voxels = np.random.default_rng(0).integers(-160, 240, (48, 48, 4)).astype(np.int16)
    nib.save(nib.Nifti1Image(voxels, np.diag([1.0, 1.0, 3.0, 1.0])), tmp_path / "ct.nii.gz")
    task = make_task(image_size=(32, 32), pixdim=(1.5, 1.5), intensity=Intensity("hu_window", -160.0, 240.0))
    weights = build_student(STUDENT, 1, task.num_classes, task.image_size).state_dict()
    write_student_bundle(ROOT / "bundles" / "segmentation", tmp_path / "bundle", task, STUDENT, weights)
    return tmp_path / "ct.nii.gz", tmp_path / "bundle"


@pytest.mark.parametrize("engine", ["torch", "zoo"])
def test_each_pipeline_segments_and_its_parts_add_up(
    engine: str, scan_and_bundle: tuple[Path, Path], tmp_path: Path
) -> None:
    scan, bundle = scan_and_bundle
    script = ROOT / "scripts" / "benchmark" / "inference_speed.py"
    command = [python_command(), str(script), "--child", str(bundle), str(scan), engine, str(tmp_path / "out")]
    for _ in range(2):  # the second time nothing counts as already done
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        measured = json.loads(done.stdout.splitlines()[-1])
        parts = measured["cpu"]
        assert parts["network"] > 0 and parts["read"] > 0
        assert sum(value for name, value in parts.items() if name != "whole") == pytest.approx(parts["whole"])
    (written,) = (tmp_path / "out").rglob("*.nii.gz")
    assert nib.load(written).shape[:3] == (48, 48, 4)


def test_the_readme_shows_the_committed_measurements() -> None:
    sys.path.insert(0, str(ROOT / "scripts" / "benchmark"))
    try:
        table = importlib.import_module("inference_speed").table
    finally:
        sys.path.pop(0)
    text = (ROOT / "bundles" / "segmentation" / "docs" / "README.md").read_text()
    results = ROOT / "scripts" / "benchmark" / "results"
    measured = sorted((results / "inference_speed").glob("*.json"))
    assert measured
    for path in measured:
        assert table(read_json(path)["engines"], ["cpu"]) in text, path.name
    engines = read_json(results / "shipped_student" / "engines.json")
    assert engines["weights_sha256"] == file_sha256(ROOT / "bundles" / "segmentation" / "models" / "model.pt")
    assert parity_table(engines["parity"]) in text

"""The student runs in programs of others: the shipped one, a user's, and the export for the model zoo."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import load, run
from monai.networks.nets import UNet

from tests.bundles.foreign_callers import CALLERS, slicer, slicer_config, voxels
from tests.support.paths import BUNDLES
from tskd_monai.bundle.student import write_student_bundle
from tskd_monai.bundle.zoo.bundle import Export, export_bundle
from tskd_monai.bundle.zoo.contents import Trained
from tskd_monai.data.task import Intensity, Label, Task
from tskd_monai.files.json_files import read_json
from tskd_monai.inference.failures import root_cause
from tskd_monai.networks.students import build_student

SHIPPED = BUNDLES / "segmentation"
STUDENTS = ("shipped", "fresh", "zoo")
VENDORED = "scripts"
TASK = Task(
    name="two organs",
    labels=(Label(0, "background"), Label(3, "liver"), Label(7, "left kidney")),
    channels=1,
    image_size=(32, 32),
    pixdim=(8.0, 8.0),
    axcodes="PLS",
    intensity=Intensity("percentile", 0.5, 99.5),
)


@pytest.fixture(scope="module")
def students(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Returns a copy of the shipped student, a fresh student of another task, and the zoo's export of the shipped."""
    folder = tmp_path_factory.mktemp("foreign")
    shutil.copytree(SHIPPED, folder / "shipped", ignore=shutil.ignore_patterns("docs"))
    torch.manual_seed(0)
    weights = build_student("compact_unet_base", TASK.channels, TASK.num_classes, TASK.image_size).state_dict()
    write_student_bundle(SHIPPED, folder / "fresh", TASK, "compact_unet_base", weights)
    export_bundle(Export("segmentation", "zoo", Trained(None)), folder)
    return {name: folder / name for name in STUDENTS}


@pytest.fixture(params=STUDENTS)
def student(
    request: pytest.FixtureRequest, students: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """Returns one of the students; as in a new process, nothing of another export is imported."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.chdir(tmp_path)
    ours = unload()
    yield students[request.param]
    unload()
    sys.modules.update(ours)


def unload() -> dict[str, object]:
    """Removes the code of an exported bundle from memory, and returns it."""
    names = [name for name in sys.modules if name.partition(".")[0] == VENDORED]
    return {name: sys.modules.pop(name) for name in names}


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """Returns a volume of no patient."""
    path = tmp_path / "images" / "scan.nii.gz"
    path.parent.mkdir()
    noise = np.random.default_rng(0).integers(0, 1000, (40, 44, 6)).astype(np.int16)
    nib.save(nib.Nifti1Image(noise, np.diag([-8.0, 8.0, 20.0, 1.0])), path)
    return path


@pytest.mark.parametrize("caller", CALLERS)
def test_the_label_map_is_that_of_the_runner(
    caller: str, student: Path, scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = str(student / "configs" / "inference.json")
    expected = tmp_path / "expected"
    run(config_file=config, bundle_root=str(student), logging_file=False, image=str(scan), output_dir=str(expected),
        device="cpu")  # fmt: skip
    if caller == "deploy":  # an application starts in the bundle's folder
        monkeypatch.chdir(student)
    found = CALLERS[caller](student, scan, tmp_path / "found")
    np.testing.assert_array_equal(found, voxels(expected / "scan_seg.nii.gz"))
    assert found.any()


@pytest.mark.parametrize("workflow_type", ["train", "inference"])
def test_monai_loads_a_stock_network_from_any_folder(workflow_type: str, student: Path, tmp_path: Path) -> None:
    network = load(student.name, bundle_dir=student.parent, workflow_type=workflow_type, source="github", device="cpu")
    assert type(network) is UNet
    weights = torch.load(student / "models" / "model.pt", weights_only=True)
    loaded = network.state_dict()
    assert set(loaded) == set(weights) and all(torch.equal(loaded[name], weights[name]) for name in weights)
    assert not list(tmp_path.iterdir())  # nothing is locked or written


def test_the_evaluator_alone_writes_the_summary(student: Path, scan: Path, tmp_path: Path) -> None:
    summary = tmp_path / "out" / "summary.json"
    for expected in (1, 0):  # the second time, nothing is left to segment
        parser = slicer_config(student, scan, tmp_path / "out")
        assert len(parser.get_parsed_content("dataloader")) == expected
        parser.get_parsed_content("evaluator").run()
        assert [case["name"] for case in read_json(summary)["studies"]] == ["scan"]
        assert (read_json(summary)["done"], read_json(summary)["failed"]) == (1, 0)
        summary.unlink()


def test_the_evaluator_alone_raises_what_failed(student: Path, scan: Path, tmp_path: Path) -> None:
    scan.write_bytes(scan.read_bytes()[:-30])
    with pytest.raises(RuntimeError) as raised:
        slicer(student, scan, tmp_path / "out")
    assert "1 of 1 cases failed" in str(root_cause(raised.value))
    assert "scan: Expected a complete NIfTI file" in str(raised.value)
    assert read_json(tmp_path / "out" / "summary.json")["failed"] == 1

"""A student as MONAI Deploy's bundle operator runs it: names, segments, and the label map of the runner."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigParser, run
from monai.transforms import Compose, MapTransform

from tests.bundles import deploy_requests as deploy
from tests.bundles.trainings import study_task, write_patients

AFFINE = np.diag([-8.0, -8.0, 20.0, 1.0])


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an untrained student bundle whose task keeps the largest component, with `models/model.ts`."""
    study = write_patients(tmp_path_factory.mktemp("deploy"))
    assert study_task(study).keep_largest_component
    deploy.export(study / "student")
    return study / "student"


@pytest.fixture
def parser(student: Path, monkeypatch: pytest.MonkeyPatch) -> ConfigParser:
    """Return the configs in the TorchScript, parsed as the operator does, from the bundle's folder."""
    monkeypatch.chdir(student)
    return deploy.open_archive(student)


def scan() -> np.ndarray:
    """Return a volume (W, H, D) of no patient."""
    return np.random.default_rng(0).integers(0, 1000, (40, 44, 6)).astype(np.float32)


def test_names_are_those_of_the_metadata(parser: ConfigParser) -> None:
    formats = parser["_meta_"]["network_data_format"]
    assert list(formats["inputs"]) == ["image"] and list(formats["outputs"]) == ["pred"]
    assert {formats["inputs"]["image"]["type"], formats["outputs"]["pred"]["type"]} == {"image"}
    preprocessing = parser.get_parsed_content("preprocessing")
    assert isinstance(preprocessing, Compose) and isinstance(parser.get_parsed_content("postprocessing"), Compose)
    keyed = [transform for transform in preprocessing.transforms if isinstance(transform, MapTransform)]
    assert keyed and all(tuple(transform.keys) == ("image",) for transform in keyed)


def test_every_class_has_a_name_for_its_segment(parser: ConfigParser, student: Path) -> None:
    """Deploy's SEG writer requires one description for each label value from 1."""
    names = parser["_meta_"]["network_data_format"]["outputs"]["pred"]["channel_def"]
    task = json.loads((student / "configs" / "task.json").read_text())
    assert names == {str(index): label["name"] for index, label in enumerate(task["labels"])}


def test_nothing_that_reads_or_writes_is_left(parser: ConfigParser) -> None:
    names = [type(transform).__name__ for transform in parser.get_parsed_content("postprocessing").transforms]
    assert names[-1] == "SaveImageInBackgroundd" and "SaveImage" in names[-1]
    assert not any(isinstance(t, Compose) for t in parser.get_parsed_content("postprocessing").transforms)


def test_the_label_map_is_that_of_the_runner_in_one_uint8_channel(
    parser: ConfigParser, student: Path, tmp_path: Path
) -> None:
    sent = deploy.infer(parser, student, scan(), AFFINE)
    assert sent.shape == scan().shape and sent.dtype == np.uint8
    nib.save(nib.Nifti1Image(scan(), AFFINE), tmp_path / "scan.nii.gz")
    run(
        config_file=str(student / "configs" / "inference.json"),
        bundle_root=str(student),
        logging_file=False,
        image=str(tmp_path / "scan.nii.gz"),
        output_dir=str(tmp_path / "out"),
        device="cpu",
    )
    np.testing.assert_array_equal(sent, np.asarray(nib.load(tmp_path / "out" / "scan_seg.nii.gz").dataobj))


def test_without_the_task_the_error_names_the_path_searched(parser: ConfigParser, tmp_path: Path) -> None:
    parser["bundle_root"] = str(tmp_path)
    parser.parse()
    with pytest.raises(RuntimeError) as raised:
        parser.get_parsed_content("preprocessing")
    cause: BaseException = raised.value
    while cause.__cause__ is not None:
        cause = cause.__cause__
    assert "Expected the task at" in str(cause) and "bundle_root" in str(cause)

"""A user's own folder is checked, and trains a student, without a datalist: PNG, NIfTI and DICOM."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml
from PIL import Image

from tests.support.fork_server import python_command
from tests.support.paths import ROOT
from tskd_monai.commands.main import main
from tskd_monai.datasets.phantom.dicom import write_dicom_series
from tskd_monai.datasets.phantom.study import write_study
from tskd_monai.files.json_files import read_json

STEPS = {"epoch_length": 1, "max_epochs": 1, "val_interval": 1, "batch_size": 1}
PRESET = {
    "image_size": 32,
    "labelled_slices": 2,
    "synthesis": False,
    "teacher": STEPS,
    "diffusion": {"epoch_length": 1, "max_epochs": 1},
    "sampling": {"number": 1},
    "distillation": STEPS,
    "fine_tuning": STEPS,
}


def check(data: Path, *options: str) -> None:
    """Runs `tskd check`, which must find nothing to refuse."""
    assert main(["check", str(data), "--output-dir", str(data.parent / "check"), *options]) == 0
    assert (data.parent / "check" / "check.html").is_file()


def train(data: Path, *options: str) -> Path:
    """Runs `tskd train` with a step per stage, and returns its output folder."""
    folder = data.parent
    (folder / "tiny.yaml").write_text(yaml.safe_dump({"tiny": PRESET}))
    words = ["-m", "tskd_monai", "train", data.name, "--output-dir", "run", "--preset", "tiny.yaml", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [python_command(), *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (folder / "run/report.html").is_file() and "Distilled student" in done.stdout
    return folder / "run"


def segmented(run: Path) -> Path:
    """Returns the student's segmentation of the only test case."""
    (path,) = (run / "predictions_student").glob("*_seg.*")
    assert read_json(run / "predictions_student/metrics.json")["cases"] == 1
    return path


def copy_of(real_data: Path, name: str, data: Path, count: int) -> list[Path]:
    """Copies the first images of a real dataset and their labels into `images/` and `labels/`."""
    listed = json.loads((real_data / name / "datalist.json").read_text())["training"][:count]
    for key in ("image", "label"):
        (data / f"{key}s").mkdir(parents=True)
        for entry in listed:
            shutil.copy(real_data / name / entry[key], data / f"{key}s")
    return sorted((data / "images").iterdir())


@pytest.mark.slow
def test_dicom_series_with_labels_of_a_converter(tmp_path: Path) -> None:
    """Labels keep the axes of the NIfTI volume that the series was written from."""
    study, data = tmp_path / "study", tmp_path / "scans"
    write_study(study, seed=7, sections={"training": 4}, shape=(32, 32, 6), spacing=(10.8, 10.8, 28.0))
    for index, label in enumerate(sorted((study / "labels").iterdir())):
        image = nib.load(study / "images" / label.name)
        voxels = np.asarray(image.dataobj).round().clip(0).astype(np.uint16)
        write_dicom_series(data / "images" / f"case {index}", voxels, image.affine, seed=index)
        (data / "images" / f"case {index}" / "Thumbs.db").touch()
        (data / "labels").mkdir(exist_ok=True)
        shutil.copy(label, data / "labels" / f"case {index}.nii.gz")
    options = ("--labels", "liver=1,right kidney=2,left kidney=3,spleen=4")
    check(data, *options)
    run = train(data, *options)
    path = segmented(run)
    assert path.name.startswith("case ") and nib.load(path).shape == (32, 32, 6)


@pytest.mark.slow
def test_real_colour_images_with_masks_of_0_and_255(real_data: Path, tmp_path: Path) -> None:
    images = copy_of(real_data, "ph2", tmp_path / "skin", 4)
    check(tmp_path / "skin")
    run = train(tmp_path / "skin", "--labels", "lesion")
    segmentation = np.asarray(Image.open(segmented(run)))
    assert set(np.unique(segmentation)) <= {0, 255}
    with Image.open(images[0]) as image:
        assert segmentation.shape == (image.height, image.width)
    assert read_json(run / "task.json")["channels"] == 3


@pytest.mark.slow
def test_real_volumes_in_all_layouts(real_data: Path, tmp_path: Path) -> None:
    """The same cases in a folder, as a Decathlon download and as an nnU-Net dataset."""
    data = tmp_path / "hippocampus"
    copy_of(real_data, "msd_hippocampus", data, 4)
    names = "anterior,posterior"
    check(data, "--labels", names)
    run = train(data, "--labels", names)
    assert segmented(run).name.startswith("hippocampus_")
    sections = read_json(run / "private/data.json")
    for layout, labels in (
        ("Task04", {"0": "background", "1": "anterior", "2": "posterior"}),
        ("Dataset004", {"background": 0, "anterior": 1, "posterior": 2}),
    ):
        other = tmp_path / layout
        for folder in ("images", "labels"):
            shutil.copytree(data / folder, other / f"{folder}Tr")
        if layout == "Dataset004":
            for path in list((other / "imagesTr").iterdir()):
                path.rename(path.with_name(path.name.replace(".nii", "_0000.nii")))
        content = {"labels": labels, "channel_names": {"0": "MRI"}, "file_ending": ".nii.gz", "numTraining": 4}
        (other / "dataset.json").write_text(json.dumps(content))
        check(other)
        found = read_json(tmp_path / "check/private/data.json")
        assert found["labels"] == sections["labels"]
        for section in ("training", "validation", "test"):
            assert [entry["case"] for entry in found[section]] == [entry["case"] for entry in sections[section]]

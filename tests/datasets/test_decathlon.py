from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from tskd_monai.datasets.decathlon import find
from tskd_monai.datasets.preparation import prepare_dataset

SHAPE = (12, 10, 6)
AFFINE = np.diag([1.5, 1.5, 4.0, 1.0])


@pytest.fixture
def write_task(tmp_path: Path) -> Callable[..., Path]:
    """Returns the function that writes a task with four training images and a test image."""

    def write(modality: dict[str, str], largest: int = 2) -> Path:
        rng = np.random.default_rng(0)
        for folder in ("imagesTr", "labelsTr", "imagesTs"):
            (tmp_path / folder).mkdir()
        shape = SHAPE if len(modality) == 1 else (*SHAPE, len(modality))
        for number in range(5):
            folder = "imagesTr" if number < 4 else "imagesTs"
            image = rng.integers(0, 900, shape).astype(np.int16)
            nib.save(nib.Nifti1Image(image, AFFINE), tmp_path / folder / f"knee_{number:03d}.nii.gz")
            label = rng.integers(0, largest + 1, SHAPE).astype(np.uint8)
            nib.save(nib.Nifti1Image(label, AFFINE), tmp_path / "labelsTr" / f"knee_{number:03d}.nii.gz")
        (tmp_path / "labelsTr/knee_004.nii.gz").unlink()
        pairs = [{"image": f"./imagesTr/knee_{n:03d}.nii.gz", "label": f"./labelsTr/knee_{n:03d}.nii.gz"}
                 for n in range(4)]  # fmt: skip
        task = {
            "name": "Knee", "description": "Bone and cartilage", "licence": "CC-BY-SA 4.0", "tensorImageSize": "3D",
            "modality": modality, "labels": {"0": "background", "1": "bone", "2": "cartilage"},
            "numTraining": 4, "numTest": 1, "training": pairs, "test": ["./imagesTs/knee_004.nii.gz"],
        }  # fmt: skip
        (tmp_path / "dataset.json").write_text(json.dumps(task))
        return tmp_path

    return write


def test_volumes_are_copied_and_test_images_unlabelled(
    write_task: Callable[..., Path], prepare: Callable[..., dict[str, Any]]
) -> None:
    source = write_task({"0": "MRI"})
    datalist = prepare(find(source), split=(2, 1, 1), allow_partial=False)
    assert (datalist["name"], datalist["modality"], datalist["licence"]) == ("decathlon_knee", "MR", "CC-BY-SA 4.0")
    assert [entry["case"] for entry in datalist["unlabeled"]] == ["knee_004"]
    entry = datalist["test"][0]
    for key, folder in (("image", "imagesTr"), ("label", "labelsTr")):
        path = Path(entry[key])
        assert path.read_bytes() == (source / folder / path.name).read_bytes()


def test_one_channel_of_several_is_cut_out(
    write_task: Callable[..., Path], prepare: Callable[..., dict[str, Any]]
) -> None:
    source = write_task({"0": "T2", "1": "ADC"})
    with pytest.raises(ValueError, match=r"expected --channel as one of 0 T2, 1 ADC, found None"):
        find(source)
    datalist = prepare(find(source, channel=1), split=(4, 0, 0))
    entry = datalist["training"][0]
    original = nib.load(source / "imagesTr" / Path(entry["image"]).name)
    np.testing.assert_array_equal(np.asarray(nib.load(entry["image"]).dataobj), np.asarray(original.dataobj)[..., 1])
    np.testing.assert_allclose(nib.load(entry["image"]).affine, AFFINE, atol=1e-5)


def test_an_undeclared_value_is_named(write_task: Callable[..., Path], tmp_path: Path) -> None:
    dataset = find(write_task({"0": "CT"}, largest=3))
    with pytest.raises(ValueError, match=r"labels/knee_000.* expected label values \[0, 1, 2\], found \[3"):
        prepare_dataset(dataset, tmp_path / "prepared")


def test_a_label_at_another_position_is_named(write_task: Callable[..., Path], tmp_path: Path) -> None:
    source = write_task({"0": "CT"})
    label = nib.load(source / "labelsTr/knee_001.nii.gz")
    moved = AFFINE.copy()
    moved[2, 3] = 4
    nib.save(nib.Nifti1Image(np.asarray(label.dataobj), moved), source / "labelsTr/knee_001.nii.gz")
    with pytest.raises(ValueError, match=r"labels/knee_001.*expected a label at the position of its image.* 4 mm"):
        prepare_dataset(find(source), tmp_path / "prepared")


def test_another_dataset_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text('{"name": "nnU-Net", "channel_names": {"0": "CT"}}')
    with pytest.raises(ValueError, match=r"dataset\.json: expected a task of the Decathlon, found no `modality`"):
        find(tmp_path)


def test_a_missing_file_is_named(write_task: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"Decathlon: expected the file dataset\.json"):
        find(tmp_path)
    source = write_task({"0": "MRI"})
    (source / "labelsTr/knee_002.nii.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"expected the file knee_002\.nii\.gz at .*labelsTr"):
        find(source)

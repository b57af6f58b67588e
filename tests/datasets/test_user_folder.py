"""A user's folder becomes a datalist: pairs by name, sections by a seeded draw, labels by their values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from tskd_monai.data.datalist import load_datalist
from tskd_monai.datasets.phantom.dicom import write_dicom_series
from tskd_monai.datasets.user_folder import is_datalist, user_datalist
from tskd_monai.files.json_files import write_json


def volume(path: Path, values: tuple[int, ...] = (0,)) -> None:
    """Write a NIfTI volume that holds the values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.resize(np.array(values, np.uint8), (4, 4, 3))
    nib.save(nib.Nifti1Image(array, np.diag([1.0, 1.0, 2.0, 1.0])), path)


def pairs(folder: Path, count: int = 5, ending: str = "", values: tuple[int, ...] = (0, 1, 3)) -> None:
    """Write images and labels of the layout images/ and labels/."""
    for index in range(count):
        volume(folder / "images" / f"case{index}.nii.gz", (10, 20))
        volume(folder / "labels" / f"case{index}{ending}.nii.gz", values)


def sections(datalist: dict[str, Any]) -> dict[str, list[str]]:
    return {
        name: [entry["case"] for entry in datalist[name]] for name in ("training", "validation", "test", "unlabeled")
    }


def test_a_folder_of_images_and_labels_becomes_a_datalist_that_loads(tmp_path: Path) -> None:
    pairs(tmp_path / "data", 10)
    volume(tmp_path / "data/images/extra.nii.gz")
    volume(tmp_path / "data/unlabelled/more.nii.gz")
    datalist = user_datalist(tmp_path / "data", "liver,spleen")
    assert datalist["labels"] == {"0": "background", "1": "liver", "3": "spleen"}
    found = sections(datalist)
    assert [len(cases) for cases in found.values()] == [7, 1, 2, 2]
    assert found["unlabeled"] == ["extra", "more"]
    write_json(tmp_path / "datalist.json", datalist)
    loaded = load_datalist(tmp_path / "datalist.json")
    assert Path(loaded["training"][0]["image"]).name == f"{found['training'][0]}.nii.gz"
    assert sections(user_datalist(tmp_path / "data")) == found  # the same draw, independent of the label names
    assert sections(user_datalist(tmp_path / "data", seed=1)) != found


@pytest.mark.parametrize("ending", ["_seg", "-mask", "_lesion"])
def test_a_label_may_have_an_ending(tmp_path: Path, ending: str) -> None:
    pairs(tmp_path, ending=ending)
    assert len(sections(user_datalist(tmp_path))["training"]) == 3


def test_an_ending_goes_to_the_longest_name(tmp_path: Path) -> None:
    for name in ("a", "a_1", "b"):
        volume(tmp_path / "images" / f"{name}.nii.gz")
        volume(tmp_path / "labels" / f"{name}_seg.nii.gz", (0, 1))
    entries = [entry for name in ("training", "validation", "test") for entry in user_datalist(tmp_path)[name]]
    assert all(Path(entry["label"]).name == f"{entry['case']}_seg.nii.gz" for entry in entries)


def test_colour_images_with_masks_of_255(tmp_path: Path) -> None:
    for index in range(3):
        for kind, pixels in (("images", np.zeros((8, 8, 3), np.uint8)), ("labels", np.eye(8, dtype=np.uint8) * 255)):
            (tmp_path / kind).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / kind / f"{index}.png")
    datalist = user_datalist(tmp_path, "lesion")
    assert datalist["channels"] == 3
    assert datalist["labels"] == {"0": "background", "255": "lesion"}


def test_a_folder_may_be_a_dicom_series(tmp_path: Path) -> None:
    affine = np.diag([-1.0, -1.0, 2.0, 1.0])
    for index in range(3):
        write_dicom_series(tmp_path / f"images/p{index}", np.zeros((8, 8, 3), np.uint16), affine, seed=index)
        volume(tmp_path / f"labels/p{index}.nii.gz", (0, 1))
    entry = user_datalist(tmp_path)["training"][0]
    assert Path(entry["image"]).is_dir() and Path(entry["label"]).name == f"{entry['case']}.nii.gz"


@pytest.mark.parametrize(
    ("labels", "channels", "expected"),
    [
        ({"background": 0, "liver": 1}, {"0": "CT"}, {"0": "background", "1": "liver"}),  # nnU-Net
        ({"0": "background", "1": "liver"}, {"0": "MRI"}, {"0": "background", "1": "liver"}),  # Decathlon
    ],
)
def test_dataset_json_of_others(tmp_path: Path, labels: Any, channels: Any, expected: dict[str, str]) -> None:
    for index in range(4):
        volume(tmp_path / f"imagesTr/case_{index:03}_0000.nii.gz")
        volume(tmp_path / f"labelsTr/case_{index:03}.nii.gz", (0, 1))
    volume(tmp_path / "imagesTs/case_009_0000.nii.gz")
    write_json(tmp_path / "dataset.json", {"labels": labels, "channel_names": channels, "file_ending": ".nii.gz"})
    for data in (tmp_path, tmp_path / "dataset.json"):
        datalist = user_datalist(data)
        assert datalist["labels"] == expected and datalist["modality"] == channels["0"]
        assert sections(datalist)["unlabeled"] == ["case_009"]


def test_what_is_a_datalist_and_what_is_not(tmp_path: Path) -> None:
    for name, content, expected in (
        ("own", {"training": [{"image": "a", "label": "b", "case": "c"}]}, True),
        ("decathlon", {"training": [{"image": "a", "label": "b"}]}, False),
        ("nnunet", {"labels": {"background": 0}, "numTraining": 3}, False),
    ):
        write_json(tmp_path / f"{name}.json", content)
        assert is_datalist(tmp_path / f"{name}.json") is expected
    assert not is_datalist(tmp_path)


def lose_an_image(folder: Path) -> None:
    (folder / "images/case0.nii.gz").unlink()


def add_a_channel(folder: Path) -> None:
    (folder / "images").rename(folder / "imagesTr")
    (folder / "labels").rename(folder / "labelsTr")
    for path in list((folder / "imagesTr").iterdir()):
        for channel in ("0000", "0001"):
            volume(path.with_name(path.name.replace(".nii", f"_{channel}.nii")))
        path.unlink()
    write_json(folder / "dataset.json", {"labels": {"background": 0, "liver": 1}})


@pytest.mark.parametrize(
    ("change", "names", "message"),
    [
        (lose_an_image, None, "Expected an image in .*images for each label, found none for case0.nii.gz"),
        (lambda folder: volume(folder / "labels/case1_seg.nii.gz"), None, "Expected one label of case1, found"),
        (lambda folder: volume(folder / "images/case1.nii"), None, "Expected one image called case1"),
        (lambda folder: volume(folder / "unlabelled/case1.nii"), None, "Expected each image once, found case1"),
        (lambda folder: None, "liver", r"a name for each label value found \(\[1.*, 3.*\]\), found 1 names"),
        (lambda folder: None, "liver=one", "Expected whole numbers in --labels"),
        (add_a_channel, None, "Expected images of one channel"),
        (lambda folder: [path.unlink() for path in (folder / "images").iterdir()], None, "Expected images in .*images"),
        (lambda folder: (folder / "images").rename(folder / "scans"), None, "without images/ and without dataset.json"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, change: Any, names: str | None, message: str) -> None:
    pairs(tmp_path / "data")
    change(tmp_path / "data")
    with pytest.raises(ValueError, match=message):
        user_datalist(tmp_path / "data", names)


def test_an_image_in_the_folder_of_labels_is_refused(tmp_path: Path) -> None:
    pairs(tmp_path)
    array = np.linspace(0, 1, 48, dtype=np.float32).reshape(4, 4, 3)
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "labels/case0.nii.gz")
    with pytest.raises(ValueError, match=r"labels/case0.nii.gz: expected a label map .* is it an image\?"):
        user_datalist(tmp_path)


def test_too_few_labels_are_refused(tmp_path: Path) -> None:
    pairs(tmp_path, 2)
    with pytest.raises(ValueError, match="Expected at least 3 images with a label .*, found 2"):
        user_datalist(tmp_path)
    assert sections(user_datalist(tmp_path, fewest=1))["test"] == ["case0", "case1"]
    with pytest.raises(FileNotFoundError, match="found nothing at"):
        user_datalist(tmp_path / "none")

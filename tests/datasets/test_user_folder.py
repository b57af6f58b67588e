"""A user's folder becomes a datalist: pairs by name, sections by a seeded draw, labels by their values."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import itk
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
        ("dataset", {"training": [{"image": "a", "label": "b"}]}, False),  # of Decathlon
        ("dataset", {"labels": {"background": 0}, "numTraining": 3}, False),  # of nnU-Net
        ("list", {"training": [{"image": "a", "label": "b"}]}, True),  # `load_datalist` explains what is missing
    ):
        write_json(tmp_path / f"{name}.json", content)
        assert is_datalist(tmp_path / f"{name}.json") is expected
    assert not is_datalist(tmp_path)
    (tmp_path / "scan.nii.gz").touch()
    with pytest.raises(ValueError, match=r"Expected a datalist .* found the file .*scan.nii.gz; give the folder"):
        is_datalist(tmp_path / "scan.nii.gz")


def lose_an_image(folder: Path) -> None:
    (folder / "images/case0.nii.gz").unlink()


def add_a_channel(folder: Path) -> None:
    (folder / "images").rename(folder / "imagesTr")
    (folder / "labels").rename(folder / "labelsTr")
    for path in list((folder / "imagesTr").iterdir()):
        for channel in ("0000", "0001"):
            volume(path.with_name(path.name.replace(".nii", f"_{channel}.nii")))
        path.unlink()
    write_json(
        folder / "dataset.json", {"labels": {"background": 0, "liver": 1}, "channel_names": {"0": "T1", "1": "T2"}}
    )


@pytest.mark.parametrize(
    ("change", "names", "message"),
    [
        (
            lose_an_image,
            None,
            "an image in .*images for each label, found none for case0.nii.gz; the closest is case",
        ),
        (lambda folder: volume(folder / "labels/case1_seg.nii.gz"), None, "Expected one label of case1, found"),
        (lambda folder: volume(folder / "images/case1.nii"), None, "Expected one image called case1"),
        (lambda folder: volume(folder / "unlabelled/case1.nii"), None, "Expected each image once, found case1"),
        (lambda folder: None, "liver", r"a name for each of the label values found, \[1, 3\], found 1: liver\."),
        (
            lambda folder: (folder / "labels").rename(folder / "masks"),
            None,
            r"found none \(but with masks/\)\. Name the",
        ),
        (add_a_channel, None, r"one channel .* \(T1, T2\), such as case0_0001.nii.gz\. Make a folder with images/"),
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
    with pytest.raises(ValueError, match=r"labels/case0.nii.gz: expected a label map .* is it an image, or"):
        user_datalist(tmp_path)


def test_too_few_labels_are_refused(tmp_path: Path) -> None:
    pairs(tmp_path, 2)
    with pytest.raises(ValueError, match="Expected at least 3 patients with a label .*, found 2"):
        user_datalist(tmp_path)
    assert sections(user_datalist(tmp_path, fewest=1))["test"] == ["case0", "case1"]
    with pytest.raises(FileNotFoundError, match="found nothing at"):
        user_datalist(tmp_path / "none")


def test_the_folder_of_a_patient_holds_images_of_one_case(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for patient in range(4):
        for side in ("left", "right"):
            volume(tmp_path / f"images/p{patient}/{side}.nii.gz", (10, 20))
            volume(tmp_path / f"labels/p{patient}/{side}_mask.nii.gz", (0, 1))
        volume(tmp_path / f"unlabelled/p{patient}/other.nii.gz")
    datalist = user_datalist(tmp_path)
    found = sections(datalist)
    assert [len(found[name]) for name in ("training", "validation", "test")] == [4, 2, 2]
    assert sorted(set(found["training"])) == found["unlabeled"]
    assert (
        "2 unlabelled images, such as" in caplog.text and "may not use patients of validation and test" in caplog.text
    )
    assert (
        "drawn from 4 patients (70, 10 and 20 %); each folder is a patient. Images without a label: 4."
        in (datalist["description"])
    )
    write_json(tmp_path / "datalist.json", datalist)
    load_datalist(tmp_path / "datalist.json")


@pytest.mark.parametrize(
    ("names", "warned"),
    [
        (["p01_L", "p01_R", "p02_L", "p02_R"], "p01_L and p01_R .* images/p01/"),
        (["Image_01L", "Image_01R", "Image_02L", "Image_02R"], "Image_01L and Image_01R .* images/Image_01/"),
        (["7 slice 1", "7 slice 2", "8 slice 1", "9 slice 1"], "7 slice 1 and 7 slice 2 "),
        (["IMD003", "IMD004", "IMD006"], None),
        (["hippocampus_001", "hippocampus_003", "hippocampus_004"], None),
        (["2021_001", "2021_002", "2021_003"], None),  # all in one group
    ],
)
def test_names_that_look_like_one_patient_are_pointed_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, names: list[str], warned: str | None
) -> None:
    for name in names:
        volume(tmp_path / "images" / f"{name}.nii.gz", (10, 20))
        volume(tmp_path / "labels" / f"{name}.nii.gz", (0, 1))
    user_datalist(tmp_path)
    assert bool(re.search(warned, caplog.text)) if warned else "look like" not in caplog.text


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".png"])
def test_file_endings_of_nnunet(tmp_path: Path, ending: str) -> None:
    for index in range(3):
        for path, value in ((f"imagesTr/c_{index:03}_0000{ending}", 9), (f"labelsTr/c_{index:03}{ending}", 1)):
            (tmp_path / path).parent.mkdir(exist_ok=True)
            array = np.full((4, 4) if ending == ".png" else (3, 4, 4), value, np.uint8)
            array[0] = 0
            itk.imwrite(itk.image_from_array(array), tmp_path / path)
    write_json(tmp_path / "dataset.json", {"labels": {"background": 0, "liver": 1}, "file_ending": ending})
    datalist = user_datalist(tmp_path)
    assert sorted(entry["case"] for name in ("training", "validation", "test") for entry in datalist[name]) == [
        "c_000", "c_001", "c_002"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"background": 0, "tumour": [1, 2], "core": 2}, "found the region tumour, which is not supported"),
        ({"background": 0, "tumour": 1, "ignore": 1}, "found 1 for tumour and ignore; correct `labels`"),
    ],
)
def test_regions_and_shared_values_of_nnunet_are_refused(tmp_path: Path, labels: Any, message: str) -> None:
    write_json(tmp_path / "dataset.json", {"labels": labels})
    with pytest.raises(ValueError, match=f"dataset.json: expected .*{message}"):
        user_datalist(tmp_path)

"""A dataset is looked at before hours are spent: every fault is listed, the rest is described, nothing stops early."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from tests.evaluation.html_page import Page
from tskd_monai.commands.check import PAGE, main
from tskd_monai.commands.task_files import plan_dataset
from tskd_monai.data.volume_reader import VolumeReader
from tskd_monai.datasets.phantom.dicom import write_dicom_series
from tskd_monai.datasets.phantom.study import write_study

LIVER, SPLEEN = 1, 4
SECTIONS = {"training": 7, "validation": 1, "test": 2, "unlabeled": 1}


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom")
    write_study(folder, seed=5, sections=SECTIONS, shape=(32, 32, 8), spacing=(10.8, 10.8, 21.6))
    return folder


@pytest.fixture
def study(phantom: Path, tmp_path: Path) -> Path:
    """Return the folder of a phantom dataset of this test's own."""
    return Path(shutil.copytree(phantom, tmp_path / "study"))


def check(data: Path, *options: str) -> tuple[int, Page]:
    """Run the command; return its exit code and the page."""
    code = main([str(data), "--output-dir", str(data.parent / "check"), *options])
    return code, Page((data.parent / "check" / PAGE).read_text(encoding="utf-8"))


def rewrite(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change the voxels of a NIfTI file in its place."""
    image = nib.load(path)
    array = change(np.asarray(image.dataobj).copy())
    nib.save(nib.Nifti1Image(array, image.affine), path)


def with_value(where: Any, value: int) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array[where(array)] = value
        return array

    return change


def broken(study: Path) -> Path:
    """Put a fault of each kind into a dataset; return its datalist."""
    content = json.loads((study / "datalist.json").read_text())
    cut, odd, same, small, absent, empty, _ = content["training"]
    rewrite(study / cut["label"], lambda array: array[..., :-1])
    rewrite(study / odd["label"], with_value(lambda array: (0, 0, 0), 9))
    # Scattered voxels of what was the liver: a tenth of it.
    rewrite(study / small["label"], with_value(lambda a: (a == LIVER) & (np.indices(a.shape).sum(0) % 10 > 0), 0))
    rewrite(study / absent["label"], with_value(lambda array: array == SPLEEN, 0))
    (study / empty["image"]).write_bytes(b"no image")
    for key in ("image", "label"):
        shutil.copy(study / same[key], study / f"copy_{key}.nii.gz")
    content["test"].append({"image": "copy_image.nii.gz", "label": "copy_label.nii.gz", "case": "twin"})
    content["training"].append({"image": "away/lost.nii.gz", "label": "away/lost_seg.nii.gz", "case": "lost"})
    content["validation"].append({"image": cut["image"], "case": "bare"})
    (study / "datalist.json").write_text(json.dumps(content))
    return study / "datalist.json"


def test_every_fault_is_found_and_the_rest_described(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, page = check(broken(study))
    lines = capsys.readouterr().out.splitlines()
    text = "\n".join(lines)
    assert code == 1
    assert lines[-1] == f"Report: {study / 'check' / PAGE}"
    for found in (
        "training, case phantom_000: label phantom_000.nii.gz of image phantom_000.nii.gz: expected shape (32, 32, 8), "
        "found (32, 32, 7). Resample the label",
        "training, case phantom_001: phantom_001.nii.gz: expected label values [0, 1, 2, 3, 4], found also [9].",
        "training, case phantom_005: Expected gzip data in phantom_005.nii.gz",
        "training, case lost: expected lost.nii.gz of `training` case lost, found no file",
        "validation, case bare: expected an entry with ['case', 'image', 'label'] in `validation`",
        "test, case twin: Expected each image once, found the content of phantom_002.nii.gz",
        "phantom_003: liver of ",
        " mL, 0.1",
        "phantom_004: no spleen",
        "phantom_002, twin",
        "Planned: 32 × 32 pixels of 10.8 mm, axial (PLS), percentile",
        "Planning and training would refuse 6 of 14 images; "
        "2 images are unlike the others and 2 cases share their image or label with another.",
    ):
        assert found in text, found
    assert "training          8       8               32" in text  # what cannot be read has no slices
    flat = page.text.replace("\n", " ")
    for found in (
        "training, phantom_000: label",
        "test, twin: Expected each",
        "The same label: phantom_002, twin",
        "same label as twin",
        "absent",
    ):
        assert found in flat, found
    shown = [image["alt"] for image in page.attributes("img")]
    assert shown == [
        f"Case {name}" for name in (*(f"phantom_{n:03}" for n in (2, 3, 4, 6, 7, 8, 9)), "twin", "phantom_010")
    ]


def test_the_page_names_no_path_and_no_other_file(study: Path) -> None:
    _, page = check(broken(study))
    html = (study / "check" / PAGE).read_text(encoding="utf-8")
    assert str(study.parent) not in html and "away" not in html
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in page.attributes("img"))
    assert not page.attributes("script") and not page.attributes("link")


def test_what_check_refuses_planning_refuses(study: Path) -> None:
    """Each fault by itself, so that the first one hides none."""
    assert check(study / "datalist.json")[0] == 0
    plan_dataset(study / "datalist.json", study / "sound")
    for name, change in (("grid", lambda array: array[..., :-1]), ("value", with_value(lambda array: (0, 0, 0), 9))):
        folder = Path(shutil.copytree(study, study.parent / name / "study"))
        rewrite(folder / "labels" / "phantom_000.nii.gz", change)
        assert check(folder / "datalist.json")[0] == 1
        with pytest.raises(ValueError, match="`training` case phantom_000"):
            plan_dataset(folder / "datalist.json", folder / "plan")


def test_a_class_that_no_case_shows_is_refused_and_the_plan_is_shown(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads((study / "datalist.json").read_text())
    content["labels"]["7"] = "pancreas"
    (study / "datalist.json").write_text(json.dumps(content))
    code, page = check(study / "datalist.json")
    text = capsys.readouterr().out
    assert code == 1
    assert "found no voxel of 7 (pancreas)" in text and "Planned: 32 × 32" in text
    assert "planning and training would refuse the dataset as a whole" in page.text


def test_a_spacing_that_training_would_refuse_is_listed(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for key in ("images", "labels"):
        path = study / key / "phantom_003.nii.gz"
        image = nib.load(path)
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine @ np.diag([1000, 1000, 1, 1])), path)
    assert check(study / "datalist.json")[0] == 1
    text = capsys.readouterr().out
    assert "training, case phantom_003: Expected pixels of at most 10 times" in text
    assert "phantom_003: field of view" in text


def test_the_cases_of_a_fold_are_in_its_sections(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads((study / "datalist.json").read_text())
    cases = [entry["case"] for section in ("training", "validation", "test") for entry in content[section]]
    content["folds"] = [{"training": cases[:3], "validation": cases[3:4], "test": cases[4:]}]
    content["training"][0]["image"] = "images/lost.nii.gz"
    (study / "datalist.json").write_text(json.dumps(content))
    assert check(study / "datalist.json", "--fold", "0")[0] == 1
    text = capsys.readouterr().out
    assert (
        "training          3       3               16" in text
        and "test              6       6               48" in text
    )


def test_a_folder_of_colour_images_and_masks_of_0_and_255(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, generator = tmp_path / "skin", np.random.default_rng(0)
    for folder in ("images", "labels"):
        (data / folder).mkdir(parents=True)
    for index in range(8):
        mask = np.zeros((40, 48), np.uint8)
        mask[8 : 20 + index % 3, 10:30] = 255
        Image.fromarray(generator.integers(0, 255, (40, 48, 3), dtype=np.uint8)).save(data / f"images/skin{index}.png")
        Image.fromarray(mask).save(data / f"labels/skin{index}_lesion.png")
    assert check(data, "--labels", "lesion")[0] == 0
    assert "2D images, rgb: 0 to 255 becomes 0 to 1" in capsys.readouterr().out
    mask[:] = 0
    mask[1, :5] = 255  # 5 pixels, 260 in the others
    Image.fromarray(mask).save(data / "labels/skin3_lesion.png")
    (data / "labels/skin5_lesion.png").write_bytes(b"no mask")
    assert check(data, "--labels", "lesion")[0] == 1
    text = capsys.readouterr().out
    assert "training, case skin5: Expected a complete image file, found skin5_lesion.png truncated or damaged" in text
    assert "(not a known image format)" in text and "skin3: lesion of 5 pixels, 0.019 times the median" in text


def test_a_folder_of_dicom_series(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = study.parent / "scans"
    (data / "labels").mkdir(parents=True)
    for index in range(3):
        case = f"phantom_{index:03}"
        image, label = (nib.load(study / key / f"{case}.nii.gz") for key in ("images", "labels"))
        voxels = np.asarray(image.dataobj).round().clip(0).astype(np.uint16)
        write_dicom_series(data / "images" / case, voxels, image.affine, seed=index)
        affine = VolumeReader().read(data / "images" / case)[1]["affine"]
        turn = nib.orientations.ornt_transform(nib.io_orientation(label.affine), nib.io_orientation(affine))
        turned = nib.orientations.apply_orientation(np.asarray(label.dataobj), turn)
        nib.save(nib.Nifti1Image(turned, affine), data / "labels" / f"{case}.nii.gz")
    assert check(data)[0] == 0
    assert "Planned: 32 × 32 pixels of 10.8 mm" in capsys.readouterr().out
    (data / "images" / "phantom_001" / next((data / "images" / "phantom_001").iterdir()).name).unlink()
    assert check(data)[0] == 1
    text = capsys.readouterr().out
    assert "case phantom_001: " in text and str(data) not in text

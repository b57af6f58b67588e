"""Real images, rearranged in the layout of the official download, give the counts of the data folder's README.

The folder contains subsets, so counts come from `--split` with numbers of patients; the assignment is drawn again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from tskd_monai.datasets import chaos, chase_db1, decathlon, hc18, ph2
from tskd_monai.datasets.phantom.dicom import write_dicom_series
from tskd_monai.files.json_files import read_json

pytestmark = pytest.mark.slow

Prepare = Callable[..., dict[str, Any]]
CHAOS_CODES = np.array([0, 63, 126, 189, 252], np.uint8)
SECTIONS = ("training", "validation", "test")


def _entries(folder: Path) -> list[dict[str, str]]:
    datalist = read_json(folder / "datalist.json")
    return [entry for section in SECTIONS for entry in datalist[section]]


def _counts(datalist: dict[str, Any]) -> tuple[tuple[int, int], ...]:
    """Images and patients of each section."""
    return tuple((len(datalist[name]), len({entry["case"] for entry in datalist[name]})) for name in SECTIONS)


def test_chase_db1(real_data: Path, prepare: Prepare) -> None:
    datalist = prepare(chase_db1.find(real_data / "chase_db1"), split=(4, 1, 2), folds=7)
    assert _counts(datalist) == ((8, 4), (2, 1), (4, 2))
    assert [len(fold["test"]) for fold in datalist["folds"]] == [1] * 7
    assert datalist["left_out"] == []
    entry = datalist["test"][0]
    masks = [np.asarray(Image.open(entry[key])) for key in ("label", "second_reader")]
    assert masks[0].shape == (960, 999)
    assert 0.6 < 2 * (masks[0] & masks[1]).sum() / (masks[0].sum() + masks[1].sum()) < 0.95


def test_hc18(real_data: Path, tmp_path: Path, save: Callable[..., Any], prepare: Prepare) -> None:
    masks = {}
    for entry in _entries(real_data / "hc18"):
        mask = np.asarray(Image.open(real_data / "hc18" / entry["label"])) > 0
        target = tmp_path / "training_set" / entry["image"]
        outline = mask & ~ndimage.binary_erosion(mask, border_value=1)
        save(target.with_name(f"{target.stem}_Annotation.png"), outline.astype(np.uint8) * 255)
        target.symlink_to(real_data / "hc18" / entry["image"])
        masks[target.stem] = mask
    datalist = prepare(hc18.find(tmp_path), split=(120, 30, 40))
    assert _counts(datalist) == ((120, 120), (30, 30), (40, 40))
    assert datalist["left_out"] == []
    for entry in (entry for section in SECTIONS for entry in datalist[section]):
        mask, filled = masks[Path(entry["label"]).stem], np.asarray(Image.open(entry["label"])) > 0
        assert 2 * (mask & filled).sum() / (mask.sum() + filled.sum()) > 0.999


def test_ph2(real_data: Path, tmp_path: Path, save: Callable[..., Any], prepare: Prepare) -> None:
    for entry in _entries(real_data / "ph2"):
        folder = tmp_path / "PH2 Dataset images" / entry["case"]
        for key, kind in (("image", "Dermoscopic_Image"), ("label", "lesion")):
            pixels = np.asarray(Image.open(real_data / "ph2" / entry[key]))
            ending = "" if key == "image" else "_lesion"
            save(folder / f"{entry['case']}_{kind}" / f"{entry['case']}{ending}.bmp", pixels)
    datalist = prepare(ph2.find(tmp_path), split=(110, 30, 20))
    assert _counts(datalist) == ((110, 110), (30, 30), (20, 20))
    assert datalist["left_out"] == []
    assert np.asarray(Image.open(datalist["test"][0]["image"])).shape == (288, 384, 3)


def test_msd_hippocampus(real_data: Path, tmp_path: Path, prepare: Prepare) -> None:
    source = real_data / "msd_hippocampus"
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder).symlink_to(source / folder)
    pairs = [{key: f"./{entry[key]}" for key in ("image", "label")} for entry in _entries(source)]
    task = {
        "name": "Hippocampus", "licence": "CC-BY-SA 4.0", "modality": {"0": "MRI"}, "numTraining": len(pairs),
        "labels": {"0": "background", "1": "Anterior", "2": "Posterior"}, "training": pairs, "test": [],
    }  # fmt: skip
    (tmp_path / "dataset.json").write_text(json.dumps(task))
    datalist = prepare(decathlon.find(tmp_path), split=(150, 30, 40), allow_partial=False)
    assert _counts(datalist) == ((150, 150), (30, 30), (40, 40))
    assert datalist["left_out"] == []


def test_chaos_t2spir(real_data: Path, tmp_path: Path, save: Callable[..., Any], prepare: Prepare) -> None:
    source = real_data / "chaos_t2spir"
    volumes = {}
    for entry in _entries(source):
        image, label = (nib.load(source / entry[key]) for key in ("image", "label"))
        voxels, values = (np.asarray(volume.dataobj).round().astype(np.int64) for volume in (image, label))
        folder = tmp_path / "Train_Sets/MR" / entry["case"] / "T2SPIR"
        axis = int(np.argmax(image.header.get_zooms()[:3]))
        files = write_dicom_series(
            folder / "DICOM_anon", voxels, image.affine, seed=int(entry["case"]), slice_axis=axis, shuffle=True
        )
        for path, plane in zip(files, np.moveaxis(values, axis, 0), strict=True):
            save(folder / "Ground" / f"{path.stem}.png", CHAOS_CODES[plane])
        volumes[entry["case"]] = (nib.Nifti1Image(voxels.astype(np.int32), image.affine),
                                  nib.Nifti1Image(values.astype(np.uint8), image.affine))  # fmt: skip
    datalist = prepare(chaos.find_mr(tmp_path, "t2spir"), split=(10, 2, 3), folds=5)
    assert _counts(datalist) == ((10, 10), (2, 2), (3, 3))
    assert [tuple(len(fold[name]) for name in SECTIONS) for fold in datalist["folds"]] == [(10, 2, 3)] * 5
    for entry in (entry for section in SECTIONS for entry in datalist[section]):
        for key, original in zip(("image", "label"), volumes[entry["case"]], strict=True):
            ours, theirs = nib.as_closest_canonical(nib.load(entry[key])), nib.as_closest_canonical(original)
            np.testing.assert_allclose(ours.affine, theirs.affine, atol=1e-3)
            np.testing.assert_array_equal(np.asarray(ours.dataobj), np.asarray(theirs.dataobj))
            assert 31 <= ours.shape[2] <= 46


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("chaos_t2spir", chaos.MR_LABELS),
        ("hc18", hc18.DESCRIPTION.labels),
        ("ph2", ph2.DESCRIPTION.labels),
        ("chase_db1", chase_db1.DESCRIPTION.labels),
    ],
)
def test_labels_mean_what_they_mean_in_the_data_folder(real_data: Path, name: str, labels: dict[int, str]) -> None:
    declared = read_json(real_data / name / "datalist.json")["labels"]
    assert {int(value): text for value, text in declared.items()} == labels

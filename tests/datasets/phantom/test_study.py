"""The embedded dataset as a folder."""

from __future__ import annotations

import json
import subprocess

import nibabel as nib
import numpy as np
import pytest

from tests.support.fork_server import python_command
from tests.support.paths import ROOT
from tskd_monai.data.datalist import load_datalist
from tskd_monai.datasets.phantom.render import label_at, make_grid, sample_anatomy
from tskd_monai.datasets.phantom.study import write_study

SHAPE, SPACING = (20, 16, 6), (17.0, 17.0, 24.0)
SECTIONS = {"training": 2, "validation": 1, "test": 1, "unlabeled": 1}


def _write(folder, **changes):
    arguments = {"seed": 3, "sections": SECTIONS, "shape": SHAPE, "spacing": SPACING, "axcodes": "LAS"}
    return write_study(folder, **(arguments | changes))


def _files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_datalist_is_one_that_the_stages_accept(tmp_path):
    path = _write(tmp_path / "study")
    datalist = load_datalist(path)
    assert {name: len(datalist[name]) for name in SECTIONS} == SECTIONS
    assert datalist["labels"] == {
        "0": "background",
        "1": "liver",
        "2": "right kidney",
        "3": "left kidney",
        "4": "spleen",
    }
    assert datalist["modality"] == "MR" and datalist["channels"] == 1
    cases = [entry["case"] for name in SECTIONS for entry in datalist[name]]
    assert cases == [f"phantom_{number:03d}" for number in range(5)]
    raw = json.loads(path.read_text())
    assert raw["training"][0]["image"] == "images/phantom_000.nii.gz"
    assert "label" not in raw["unlabeled"][0] and not (tmp_path / "study/labels/phantom_004.nii.gz").exists()


def test_files_hold_the_analytic_labels_in_place(tmp_path):
    folder = _write(tmp_path).parent
    image, label = (nib.load(folder / name / "phantom_001.nii.gz") for name in ("images", "labels"))
    grid = make_grid(SHAPE, SPACING, "LAS")
    np.testing.assert_allclose(image.affine, grid.matrix, atol=1e-4)
    np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-3)
    expected = label_at(sample_anatomy(30001), grid.centers()).reshape(SHAPE)
    np.testing.assert_array_equal(np.asanyarray(label.dataobj), expected)
    assert image.get_data_dtype() == np.int16 and label.get_data_dtype() == np.uint8
    other = nib.load(folder / "labels" / "phantom_000.nii.gz")
    assert np.any(np.asanyarray(other.dataobj) != expected)


def test_running_again_changes_nothing_and_finishes_what_is_missing(tmp_path):
    folder = _write(tmp_path / "a").parent
    before = _files(folder)
    times = {name: (folder / name).stat().st_mtime_ns for name in before}
    _write(folder)
    assert {name: (folder / name).stat().st_mtime_ns for name in before} == times
    (folder / "labels/phantom_000.nii.gz").unlink()
    (folder / "datalist.json").unlink()
    _write(folder)
    assert _files(folder) == before
    assert _files(_write(tmp_path / "b").parent) == before


def test_an_edited_datalist_stays(tmp_path, caplog):
    path = _write(tmp_path)
    edited = path.read_text().replace("phantom_000", "my case", 1)
    path.write_text(edited)
    _write(tmp_path)
    assert path.read_text() == edited and "it was edited and is kept" in caplog.text


def test_a_folder_of_another_study_is_refused(tmp_path):
    _write(tmp_path)
    with pytest.raises(ValueError, match="choose another folder or delete this one"):
        _write(tmp_path, seed=4)


def test_a_foreign_datalist_is_not_overwritten(tmp_path):
    (tmp_path / "datalist.json").write_text("{}")
    with pytest.raises(ValueError, match=r"found another datalist\.json"):
        _write(tmp_path)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"sections": {"train": 1}}, r"found \['train'\]"),
        ({"sections": {}}, "found none"),
        ({"sections": {"training": -1, "test": 2}}, "none below 0"),
        ({"seed": -1}, r"seed in \[0, 2\*\*31\), found -1"),
        ({"axcodes": "RRR"}, "such as PLS"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(tmp_path, changes, match):
    with pytest.raises(ValueError, match=match):
        _write(tmp_path / "study", **changes)
    assert not (tmp_path / "study").exists()


def test_the_script_writes_a_study(tmp_path):
    counts = ["--training", "1", "--validation", "0", "--test", "0"]
    size = ["--shape", "12", "12", "4", "--spacing", "28", "28", "40"]
    subprocess.run(
        [python_command(), "-m", "tskd_monai", "phantom", "--output-dir", tmp_path / "study", *counts, *size],
        check=True,
        cwd=ROOT,
    )
    assert len(load_datalist(tmp_path / "study/datalist.json")["training"]) == 1

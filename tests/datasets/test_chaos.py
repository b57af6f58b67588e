"""CHAOS in the layout of its archives: DICOM series with PNG labels, MR and CT."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from tskd_monai.data.dicom.reader import read_series
from tskd_monai.datasets.chaos import find_ct, find_mr
from tskd_monai.datasets.preparation import prepare_dataset

SHAPE = (10, 12, 4)  # columns, rows, slices
CODES = np.array([0, 63, 126, 189, 252], np.uint8)
OBLIQUE = ((1.0, 0.1, 0.0), (0.0, 1.0, 0.2))


@pytest.fixture
def volume() -> Callable[[int], np.ndarray]:
    """Returns the function that draws a label volume with all classes, (columns, rows, slices)."""
    return lambda seed: np.random.default_rng(seed).integers(0, 5, SHAPE, dtype=np.uint8)


@pytest.fixture
def write_dicom(write_series: Callable[..., Any]) -> Callable[..., list[Path]]:
    """Returns the function that writes a series under given names, and returns its files in order of position."""

    def write(folder: Path, names: list[str], stored: np.ndarray, modality: str, seed: int) -> list[Path]:
        def edit(dataset: Any, index: int) -> None:
            dataset.PixelData = np.ascontiguousarray(stored[:, :, index].T.astype("<i2")).tobytes()

        positions = [7.7 * index for index in range(len(names))]
        write_series(
            folder, positions=positions, directions=OBLIQUE, shape=SHAPE[1::-1], modality=modality, edit=edit, seed=seed
        )
        grid = read_series(folder).grid
        current = [Path(str(header.filename)) for header in grid.headers]
        return [path.rename(folder / name) for path, name in zip(current, names, strict=True)]

    return write


@pytest.fixture
def write_mr(
    tmp_path: Path, write_dicom: Callable[..., list[Path]], save: Callable[..., Any]
) -> Callable[[str, np.ndarray], None]:
    """Returns the function that writes an MR patient: T2-SPIR numbered in reverse, T1-DUAL with both phases."""

    def write(case: str, label: np.ndarray, part: str = "Train_Sets") -> None:
        folder = tmp_path / part / "MR" / case
        for series, names in (
            ("T2SPIR/DICOM_anon", [f"IMG-0004-{4 - index:05d}.dcm" for index in range(4)]),
            ("T1DUAL/DICOM_anon/InPhase", [f"IMG-0004-{2 * index + 2:05d}.dcm" for index in range(4)]),
            ("T1DUAL/DICOM_anon/OutPhase", [f"IMG-0004-{2 * index + 1:05d}.dcm" for index in range(4)]),
        ):
            # Voxels 1000, 1001, … so that mixed-up labels would be detected.
            stored = 1000 + 10 * label.astype(np.int16) + int(case) + len(series)
            files = write_dicom(folder / series, names, stored, "MR", int(case))
            if part == "Train_Sets" and not series.endswith("OutPhase"):
                for index, path in enumerate(files):
                    save(folder / series.split("/")[0] / "Ground" / f"{path.stem}.png", CODES[label[:, :, index]].T)

    return write


@pytest.mark.parametrize("sequence", ["t2spir", "t1_in", "t1_out"])
def test_mr_labels_are_on_their_slices(
    tmp_path: Path, write_mr: Any, volume: Any, prepare: Callable[..., dict[str, Any]], sequence: str
) -> None:
    labels = {case: volume(int(case)) for case in ("1", "2", "10")}
    for case, label in labels.items():
        write_mr(case, label)
    write_mr("4", volume(4), part="Test_Sets")
    datalist = prepare(find_mr(tmp_path, sequence), split=(1, 1, 1))
    assert (datalist["name"], datalist["modality"], len(datalist["unlabeled"])) == (f"chaos_{sequence}", "MR", 1)
    assert "CC BY-NC-SA 4.0" in datalist["description"]
    entries = [entry for section in ("training", "validation", "test") for entry in datalist[section]]
    assert sorted(entry["case"] for entry in entries) == ["1", "10", "2"]
    for entry in entries:
        image, label = nib.load(entry["image"]), nib.load(entry["label"])
        np.testing.assert_array_equal(np.asarray(label.dataobj), labels[entry["case"]])
        difference = np.asarray(image.dataobj) - 10 * np.asarray(label.dataobj).astype(int)
        assert np.ptp(difference) == 0  # each voxel's value encodes its label
        source = {"t2spir": "T2SPIR/DICOM_anon", "t1_in": "T1DUAL/DICOM_anon/InPhase"}
        series = read_series(
            tmp_path / "Train_Sets/MR" / entry["case"] / source.get(sequence, "T1DUAL/DICOM_anon/OutPhase")
        )
        np.testing.assert_allclose(image.affine, series.affine, atol=1e-4)
        np.testing.assert_allclose(label.affine, series.affine, atol=1e-4)
        np.testing.assert_array_equal(np.asarray(image.dataobj), series.voxels)


@pytest.fixture
def write_ct(
    tmp_path: Path, write_dicom: Callable[..., list[Path]], save: Callable[..., Any]
) -> Callable[..., np.ndarray]:
    """Returns the function that writes a CT patient numbered from the head down, and returns its liver."""

    def write(case: str, style: str, first: int, reverse: bool = False) -> np.ndarray:
        liver = np.zeros(SHAPE, np.uint8)
        for index in range(3):
            liver[index + 1 : index + 6, 2:9, index] = 1
        stored = np.where(liver > 0, 1134, 24 + int(case)).astype(np.int16)  # 110 and about -1000 HU
        numbers = range(first + 3, first - 1, -1)
        folder = tmp_path / "Train_Sets" / "CT" / case
        write_dicom(folder / "DICOM_anon", [style.format(number) for number in numbers], stored, "CT", int(case))
        for index in range(4):
            slice_index = index if reverse else 3 - index
            save(folder / "Ground" / f"liver_GT_{index:03d}.png", (liver[:, :, slice_index].T > 0))
        return liver

    return write


def test_ct_labels_pair_by_rank_in_both_styles_of_names(
    tmp_path: Path, write_ct: Callable[..., np.ndarray], prepare: Callable[..., dict[str, Any]]
) -> None:
    livers = {"2": write_ct("2", "i{:04d},0000b.dcm", 0), "21": write_ct("21", "IMG-0002-{:05d}.dcm", 1)}
    datalist = prepare(find_ct(tmp_path / "Train_Sets"), split=(2, 0, 0))
    for entry in datalist["training"]:
        label, image = nib.load(entry["label"]), nib.load(entry["image"])
        np.testing.assert_array_equal(np.asarray(label.dataobj), livers[entry["case"]])
        assert set(np.unique(np.asarray(image.dataobj)[np.asarray(label.dataobj) > 0])) == {110}


def test_ct_labels_in_reverse_order_are_refused(
    tmp_path: Path, write_ct: Callable[..., np.ndarray], prepare: Callable[..., dict[str, Any]]
) -> None:
    write_ct("2", "i{:04d},0000b.dcm", 0, reverse=True)
    with pytest.raises(ValueError, match=r"CT/2: expected at least 90% of the liver between 0 and 250 HU, found \d+%"):
        prepare(find_ct(tmp_path))


def _break(folder: Path, what: str, save: Callable[..., Any]) -> None:
    ground = folder / "Ground"
    first = sorted(ground.iterdir())[0]
    if what == "missing label":
        first.unlink()
    elif what == "another name":
        first.rename(ground / "IMG-0009-00001.png")
    elif what == "another size":
        save(first, np.zeros((12, 11), np.uint8))
    else:
        save(first, np.full((12, 10), 30, np.uint8))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("missing label", r"a label in Ground for every image.*found 4 images, 3 labels and IMG-0004-00001 without"),
        ("another name", r"4 images, 4 labels and IMG-0004-00001 without a partner"),
        ("another size", r"IMG-0004-00001\.png: expected a label of 12 x 10 pixels as its image, found 12 x 11"),
        ("another value", r"values in 55 to 70, 110 to 135.*IMG-0004-00001\.png, found \[30\] in 120 pixels"),
    ],
)
def test_a_wrong_label_is_named(
    tmp_path: Path, write_mr: Any, volume: Any, save: Callable[..., Any], what: str, message: str
) -> None:
    write_mr("1", volume(1))
    _break(tmp_path / "Train_Sets/MR/1/T2SPIR", what, save)
    with pytest.raises(ValueError, match=message):
        prepare_dataset(find_mr(tmp_path, "t2spir"), tmp_path / "prepared", split=(1, 0, 0), allow_partial=True)
    assert not (tmp_path / "prepared/datalist.json").exists()


def test_another_grid_of_the_out_phase_is_refused(tmp_path: Path, write_mr: Any, volume: Any, write_dicom: Any) -> None:
    write_mr("1", volume(1))
    folder = tmp_path / "Train_Sets/MR/1/T1DUAL/DICOM_anon/OutPhase"
    for path in folder.iterdir():
        path.unlink()
    write_dicom(folder, ["a.dcm", "b.dcm", "c.dcm"], np.zeros(SHAPE, int), "MR", 1)
    with pytest.raises(ValueError, match=r"OutPhase: expected the slices of InPhase.*prepare chaos_t1_in instead"):
        prepare_dataset(find_mr(tmp_path, "t1_out"), tmp_path / "prepared", split=(1, 0, 0), allow_partial=True)


def test_a_missing_folder_is_named_with_the_layout(tmp_path: Path, write_mr: Any, volume: Any) -> None:
    with pytest.raises(FileNotFoundError, match=r"CHAOS: expected the folder MR at .*Train_Sets/MR/1/T2SPIR"):
        find_mr(tmp_path, "t2spir")
    write_mr("1", volume(1))
    with pytest.raises(ValueError, match="expected 20 labelled images of 20 patients.*found 1 of 1.*--allow-partial"):
        prepare_dataset(find_mr(tmp_path, "t2spir"), tmp_path / "prepared")
    assert not (tmp_path / "prepared").exists()

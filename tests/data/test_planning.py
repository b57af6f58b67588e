from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from tskd_monai.data.planning import plan_task, slice_counts
from tskd_monai.data.slices import SliceDataset
from tskd_monai.data.task import Intensity
from tskd_monai.inference.preprocessing import preprocessing

SHAPES = {0: (6, 20, 24), 1: (20, 6, 24), 2: (20, 24, 6)}
VIEWS = {0: "IPL", 1: "ILP", 2: "PLS"}
RAS = nib.orientations.axcodes2ornt("RAS")
DEPTH = 6
Write = Callable[..., dict[str, Any]]
Spacing = Sequence[float]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes arrays given in RAS order in any orientation, and returns their entry."""

    def write_case(
        case: str, image: np.ndarray, label: np.ndarray, spacing: Spacing = (2, 2, 8), axcodes: str = "RAS", degrees=0.0
    ) -> dict[str, Any]:
        affine = nib.affines.from_matvec(nib.eulerangles.euler2mat(x=np.radians(degrees)) @ np.diag(spacing))
        turn = nib.orientations.ornt_transform(RAS, nib.orientations.axcodes2ornt(axcodes))
        entry = {"case": case}
        for key, array in (("image", image), ("label", label)):
            turned = nib.Nifti1Image(array.astype(np.float32), affine).as_reoriented(turn)
            entry[key] = str(tmp_path / f"{case}_{key}.nii.gz")
            nib.save(turned, entry[key])
        return entry

    return write_case


def _datalist(*entries: dict[str, Any], values: int = 2, **content: Any) -> dict[str, Any]:
    names = {str(value): "background" if value == 0 else f"organ {value}" for value in range(values)}
    return {"labels": names, "training": list(entries), **content}


def _numbered_slices(axis: int) -> np.ndarray:
    """Each slice along a RAS axis is filled with its number in the view's order."""
    numbers = np.arange(DEPTH) if VIEWS[axis][2] in "RAS" else np.arange(DEPTH)[::-1]
    return np.moveaxis(np.broadcast_to(numbers, (*np.delete(SHAPES[axis], axis), DEPTH)), -1, axis)


@pytest.mark.parametrize("degrees", [0.0, 20.0])
@pytest.mark.parametrize("axcodes", ["RAS", "LPS", "SPL", "AIR", "ILA", "PRI"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_count_in_the_view_whatever_the_file(write: Write, axis: int, axcodes: str, degrees: float) -> None:
    numbers = _numbered_slices(axis)
    image = numbers * 10.0
    # What each view has at the upper left: anterior superior, right superior, right anterior. RAS counts from left.
    upper_left = {0: np.s_[:, -5:, -5:], 1: np.s_[-5:, :, -5:], 2: np.s_[-5:, -5:, :]}
    image[upper_left[axis]] = 100
    entry = write("a", image, numbers, np.where(np.arange(3) == axis, 8, 2), axcodes, degrees)
    chosen = [1, 2, 5]
    task = plan_task(_datalist({**entry, "slices": chosen}, values=DEPTH))
    assert (task.axcodes, task.image_size, task.pixdim) == (VIEWS[axis], (32, 32), (1.5, 1.5))
    assert task.class_frequencies == pytest.approx([0, 1 / 3, 1 / 3, 0, 0, 1 / 3], abs=1e-6)
    assert task.keep_largest_component == ()
    assert slice_counts([entry], task) == {"a": DEPTH}
    everything = SliceDataset([entry], preprocessing(task, ["image", "label"]))
    partly = SliceDataset([{**entry, "slices": chosen}], preprocessing(task, ["image", "label"]))
    for dataset, expected in ((everything, range(DEPTH)), (partly, chosen)):
        assert [item["label"].unique().tolist() for item in dataset] == [[number] for number in expected]
    for item in everything:
        assert item["image"][0, 1, 1] > 0.95 > item["image"][0, -2:, :].max()
        assert item["image"][0, :, -2:].max() < 0.95


def test_geometry_is_the_median_of_the_cases_and_open_to_the_caller(write: Write) -> None:
    entries = [write(str(n), np.ones(s), np.ones(s)) for n, s in enumerate([(40, 30, 3), (50, 30, 3), (190, 30, 3)])]
    task = plan_task(_datalist(*entries, name="knee"))
    assert (task.name, task.image_size, task.pixdim) == ("knee", (64, 64), (round(100 / 64, 4),) * 2)
    task = plan_task(_datalist(*entries), image_size=32, intensity="rgb", name="mine")
    assert (task.name, task.image_size, task.pixdim, task.intensity.mode) == ("mine", (32, 32), (3.125,) * 2, "rgb")
    with pytest.raises(ValueError, match="two positive multiples of 16 up to 4096 in `image_size`"):
        plan_task(_datalist(*entries), image_size=50)


def test_equal_spacing_means_axial_slices(write: Write) -> None:
    label = np.zeros((12, 10, 8))
    label[2:5, 2:5, 2:5], label[0, 0, 0], label[9, 9, 7] = 1, 2, 2
    task = plan_task(_datalist(write("a", label, label, spacing=(1.005, 1, 1)), values=3))
    assert task.axcodes == "PLS"
    assert task.keep_largest_component == (1,)  # the other is in two pieces
    assert task.class_frequencies == pytest.approx([1 - 29 / 960, 27 / 960, 2 / 960], abs=1e-6)


@pytest.mark.parametrize("modality", ["CT", "ct", {"0": "CT"}])
def test_ct_gets_a_window_over_the_foreground(write: Write, modality: Any) -> None:
    label = np.zeros((20, 20, 6))
    label[5:15, 5:15] = 1
    entries = []
    for case, offset in enumerate((0, 10, 500)):
        image = np.full(label.shape, -1000.0)
        image[label > 0] = np.linspace(-100, 100, 600) + offset
        image[7, 7, 0] = np.nan
        entries.append(write(str(case), image, label))
    assert plan_task(_datalist(*entries, modality=modality)).intensity == Intensity("hu_window", -89, 109)
    assert plan_task(_datalist(*entries, modality="MR")).intensity == Intensity("percentile", 0.5, 99.5)
    empty = write("empty", image, label * 0)
    with pytest.raises(ValueError, match="Expected labelled foreground to plan a HU window from, found none"):
        plan_task(_datalist(empty, modality=modality))


@pytest.mark.parametrize("channels", [1, 3])
def test_image_files_are_planned_in_pixels(tmp_path: Path, channels: int) -> None:
    pixels = np.zeros((40, 70, 3) if channels == 3 else (40, 70), np.uint8)
    label = np.zeros((40, 70), np.uint8)
    label[:10, :7] = 1
    entry = {"case": "a", "image": str(tmp_path / "a.png"), "label": str(tmp_path / "a_mask.png")}
    Image.fromarray(pixels).save(entry["image"])
    Image.fromarray(label).save(entry["label"])
    task = plan_task(_datalist(entry, channels=channels))
    assert (task.axcodes, task.channels, task.image_size, task.pixdim) == (None, channels, (80, 80), (0.875, 0.875))
    assert task.intensity == (Intensity("rgb", 0, 255) if channels == 3 else Intensity("percentile", 0.5, 99.5))
    assert task.class_frequencies == (0.975, 0.025)
    assert slice_counts([entry], task) == {"a": 1}


@pytest.mark.parametrize("value", [-1, 7])
def test_an_undeclared_value_is_refused_with_its_case(write: Write, value: int) -> None:
    label = np.zeros((8, 8, 4))
    label[1, 1, 1], label[2, 2, 2] = 1, value
    entries = write("good", label, label.clip(0, 1)), write("bad", label, label)
    with pytest.raises(ValueError, match=rf"values \[0, 1\], found \[{value}\] in the label of case bad"):
        plan_task(_datalist(*entries))


@pytest.mark.parametrize("value", [1.5, float("nan"), float("inf")])
def test_a_label_that_is_no_whole_number_is_refused(write: Write, value: float) -> None:
    label = np.ones((8, 8, 4))
    entry = write("bad", label, np.where(np.arange(4) == 1, value, label))
    message = rf"whole numbers in the label bad_label\.nii\.gz of case bad, found \[{str(value)[:3]}.*nearest-neighbour"
    with pytest.raises(ValueError, match=message):
        plan_task(_datalist(entry))


def test_a_label_of_another_shape_is_refused(write: Write) -> None:
    entry = write("bad", np.ones((8, 8, 4)), np.ones((8, 7, 4)))
    with pytest.raises(
        ValueError, match=r"bad_label.* case bad in the shape of its image, \(8, 8, 4\), found \(8, 7, 4"
    ):
        plan_task(_datalist(entry))


def test_no_training_case_is_refused() -> None:
    with pytest.raises(ValueError, match="Expected entries in the datalist's `training` .*, found none"):
        plan_task(_datalist())


def test_a_label_that_no_case_has_is_refused_but_noticed_on_a_few_slices(
    write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    label = np.zeros((8, 8, 4))
    label[..., 0], label[..., 3] = 1, 2
    entry = write("a", label, label)
    with pytest.raises(
        ValueError, match=r"the 4 declared labels in the training cases, found no voxel of 3 \(organ 3\)"
    ):
        plan_task(_datalist(entry, values=4))
    task = plan_task(_datalist({**entry, "slices": [0, 1]}, values=3))
    assert sorted(frequency > 0 for frequency in task.class_frequencies) == [False, True, True]
    assert re.search(r"labelled slices have no voxel of [12] \(organ [12]\)", caplog.text)


@pytest.mark.parametrize("labels", [None, ["background", "liver"], {"0": "background"}, {"1": "a", "2": "b"}])
def test_undeclared_labels_are_refused(labels: Any) -> None:
    with pytest.raises(ValueError, match="Expected `labels` such as .* in the datalist, found"):
        plan_task({"labels": labels, "training": [{"image": "a.nii", "label": "b.nii", "case": "a"}]})


def test_two_images_of_a_case_are_not_counted_as_one(write: Write) -> None:
    entry = write("a", np.ones((8, 8, 4)), np.ones((8, 8, 4)))
    with pytest.raises(ValueError, match="Expected one image a case .*found 2 of case a"):
        slice_counts([entry, entry], plan_task(_datalist(entry)))

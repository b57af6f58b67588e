from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from tests.data.itk_volumes import write_volume
from tskd_monai.data.planning.rules import fingerprints, plan_task, slice_counts
from tskd_monai.data.slices import SliceDataset
from tskd_monai.data.task import Intensity, TrainingImages
from tskd_monai.data.volume_reader import VolumeReader, load_image_transform
from tskd_monai.transforms.pipelines import preprocessing

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
    # The upper left corner of each view: anterior superior, right superior, right anterior. RAS counts from left.
    upper_left = {0: np.s_[:, -5:, -5:], 1: np.s_[-5:, :, -5:], 2: np.s_[-5:, -5:, :]}
    image[upper_left[axis]] = 100
    entry = write("a", image, numbers, np.where(np.arange(3) == axis, 8, 2), axcodes, degrees)
    chosen = [1, 2, 5]
    task = plan_task(_datalist({**entry, "slices": chosen}, values=DEPTH))
    assert (task.axcodes, task.image_size, task.pixdim) == (VIEWS[axis], (32, 32), (1.5, 1.5))
    assert task.class_frequencies == pytest.approx([0, 1 / 3, 1 / 3, 0, 0, 1 / 3], abs=1e-6)
    assert task.keep_largest_component == ()
    assert slice_counts([entry], fingerprints(_datalist(entry, values=DEPTH)), task) == {"a": DEPTH}
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
    assert task.keep_largest_component == (1,)  # the other has two components
    assert task.class_frequencies == pytest.approx([1 - 29 / 960, 27 / 960, 2 / 960], abs=1e-6)


@pytest.mark.parametrize("modality", ["CT", "ct", {"0": "CT"}])
def test_ct_gets_a_window_over_the_foreground(write: Write, modality: Any) -> None:
    label = np.zeros((20, 20, 6))
    label[5:15, 5:15] = 1
    entries = []
    for case, offset in enumerate((0, 10, 500)):
        image = np.full(label.shape, -1000.0)
        image[label > 0] = np.linspace(-100, 100, 600) + offset
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
    label[15:25, :7] = 1
    entry = {"case": "a", "image": str(tmp_path / "a.png"), "label": str(tmp_path / "a_mask.png")}
    Image.fromarray(pixels).save(entry["image"])
    Image.fromarray(label).save(entry["label"])
    task = plan_task(_datalist(entry))
    assert task == plan_task(_datalist(entry, channels=channels))
    assert (task.axcodes, task.channels, task.image_size, task.pixdim) == (None, channels, (80, 80), (0.875, 0.875))
    assert task.intensity == (Intensity("rgb", 0, 255) if channels == 3 else Intensity("percentile", 0.5, 99.5))
    assert task.class_frequencies == (0.975, 0.025)
    assert plan_task(_datalist({**entry, "slices": [0]})).class_frequencies == (0.975, 0.025)
    assert slice_counts([entry], fingerprints(_datalist(entry)), task) == {"a": 1}


def test_training_images_are_those_that_networks_learn_from(write: Write, tmp_path: Path) -> None:
    array = np.zeros((20, 24, 6))
    array[:10] = np.arange(6) * 100
    first = write("a", array, array > 0, (2, 2, 8), "SPL")
    unlabelled = write("b", array + 50, array, (3, 2.5, 9))
    other = write("c", array * 9, array > 0, (7, 7, 20))
    found = plan_task(_datalist(first, unlabeled=[{"case": "b", "image": unlabelled["image"]}], test=[other]))
    assert found.training_images == TrainingImages((48.0, 60.0), (2.0, 3.0), (8.0, 9.0), (0.0, 550.0))
    assert found.unlike_training == "warn"
    (tmp_path / "flat").mkdir()
    flat = plan_task(_datalist(_picture(tmp_path / "flat", "a", False))).training_images
    assert flat is not None and (flat.field_of_view_mm, flat.pixel_mm, flat.slice_mm) == ((20, 20), (1, 1), None)


@pytest.mark.parametrize("value", [-1, 7])
def test_an_undeclared_value_is_refused_with_its_case(write: Write, value: int) -> None:
    label = np.zeros((8, 8, 4))
    label[1, 1, 1], label[2, 2, 2] = 1, value
    entries = write("good", label, label.clip(0, 1)), write("bad", label, label)
    with pytest.raises(ValueError, match=rf"`training` case bad: bad_label.* values \[0, 1\], found also \[{value}\]"):
        plan_task(_datalist(*entries))


@pytest.mark.parametrize("value", [1.5, float("nan"), float("inf")])
def test_a_label_that_is_no_whole_number_is_refused(write: Write, value: float) -> None:
    label = np.ones((8, 8, 4))
    entry = write("bad", label, np.where(np.arange(4) == 1, value, label))
    message = (
        rf"case bad: bad_label\.nii\.gz: expected label values .*, found also \[{str(value)[:3]}.*nearest-neighbour"
    )
    with pytest.raises(ValueError, match=message):
        plan_task(_datalist(entry))


def test_a_label_of_another_shape_is_refused(write: Write) -> None:
    entry = write("bad", np.ones((8, 8, 4)), np.ones((8, 7, 4)))
    with pytest.raises(
        ValueError,
        match=r"case bad: label bad_label.* of image bad_image.*: expected shape \(8, 8, 4\), found \(8, 7, 4",
    ):
        plan_task(_datalist(entry))


def test_no_training_case_is_refused() -> None:
    with pytest.raises(ValueError, match="Expected entries in the datalist's `training` .*, found none"):
        plan_task(_datalist())


def test_a_label_that_no_case_has_is_refused_but_a_warning_on_a_few_slices(
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
    left, right = (
        {**write(name, np.ones((8, 8, depth)), np.ones((8, 8, depth))), "case": "a"}
        for name, depth in (("left", 4), ("right", 5))
    )
    datalist = _datalist(left, right)
    counts = slice_counts([left, right], fingerprints(datalist), plan_task(datalist))
    assert counts == {"a_left_image": 4, "a_right_image": 5}
    with pytest.raises(ValueError, match="for each image of case a, found left_image.nii.gz twice; rename one"):
        slice_counts([left, left], fingerprints(_datalist(left)), plan_task(_datalist(left)))


SOLID = np.zeros((8, 8, 4))
SOLID[2:6, 2:6, 1:3] = 1
RAMP = np.arange(SOLID.size, dtype=float).reshape(SOLID.shape)


def _flip(entry: dict[str, Any]) -> None:
    label = nib.load(entry["label"])
    affine = label.affine.copy()
    affine[0] *= -1  # the voxels run the other way; shape and spacing are the same
    nib.save(nib.Nifti1Image(np.asarray(label.dataobj), affine), entry["label"])


def _hole(entry: dict[str, Any]) -> None:
    image = nib.load(entry["image"])
    voxels = np.asarray(image.dataobj).copy()
    voxels[0, 0, 0] = np.nan
    nib.save(nib.Nifti1Image(voxels, image.affine), entry["image"])


def _image_as_label(entry: dict[str, Any]) -> None:
    entry["label"] = entry["image"]


@pytest.mark.parametrize("section", ["training", "validation", "test"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_flip, r"label b_label\.nii\.gz of image b_image\.nii\.gz: expected the image's affine, .* corner by 28 mm"),
        (_hole, r"b_image\.nii\.gz: expected finite voxels in a labelled image, found 1"),
        (_image_as_label, r"b_image\.nii\.gz: expected label values \[0, 1\], found also .* and 246 more\. Declare"),
    ],
)
def test_planning_refuses_what_training_and_scoring_would(
    write: Write, section: str, damage: Callable[[dict[str, Any]], None], message: str
) -> None:
    sections: dict[str, list[Any]] = {"training": [write("a", RAMP + 1, SOLID)], "validation": [], "test": []}
    entry = write("b", RAMP, SOLID)
    damage(entry)
    sections[section].append(entry)
    with pytest.raises(ValueError, match=rf"`{section}` case b: {message}") as caught:
        plan_task({**_datalist(), **sections})
    assert len(str(caught.value)) < 500


def test_a_sheared_grid_is_refused_where_distances_are_scored(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    entry = write("b", RAMP, SOLID)
    for key in ("image", "label"):
        image = nib.load(entry[key])
        affine = image.affine.copy()
        affine[1, 2] = 2.0
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), entry[key])
    learned = {**_datalist(entry), "test": [write("a", RAMP + 1, SOLID)]}
    plan_task(learned)
    assert "axes are sheared by 14.0 degrees; they are resampled for the network" in caplog.text
    with pytest.raises(
        ValueError, match=r"`test` case b: .*orthogonal axes in b_label\.nii\.gz, found one sheared by 14"
    ):
        plan_task({**learned, "training": learned["test"], "test": learned["training"]})


def test_each_file_is_read_once(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    original = VolumeReader._read_path
    monkeypatch.setattr(VolumeReader, "_read_path", lambda self, path: read.append(path.name) or original(self, path))
    entries = [write(case, RAMP + number, SOLID) for number, case in enumerate("abcde")]
    del entries[4]["label"]
    sections = {"validation": [entries[2]], "test": [entries[3]], "unlabeled": [entries[4]]}
    datalist = {**_datalist(*entries[:2]), **sections}
    plan_task(datalist)
    expected = sorted(Path(entry[key]).name for entry in entries for key in ("image", "label") if key in entry)
    assert sorted(read) == expected
    read.clear()
    prints = fingerprints(datalist, partly=True)
    task = plan_task(datalist, prints=prints)
    slice_counts(datalist["training"], prints, task)
    assert sorted(read) == expected


def test_what_a_fingerprint_states_does_not_depend_on_the_file(write: Write) -> None:
    image, label = RAMP.copy(), SOLID.copy()
    prints = [
        fingerprints(_datalist(entry))[entry["image"]]
        for entry in (write(codes, image, label, (2, 3, 8), codes) for codes in ("RAS", "LPS", "SPL", "AIR"))
    ]
    for found in prints:
        assert (found.shape, found.spacing, found.channels) == ((8, 8, 4), pytest.approx((2, 3, 8)), 1)
        assert found.value_range == pytest.approx(tuple(np.percentile(RAMP, (0.5, 99.5))))
        assert found.voxels_sha256 == prints[0].voxels_sha256
        assert found.counts(2, [0]).tolist() == [64, 0] and found.counts().tolist() == [224, 32]


def _as(path: Path, array: np.ndarray) -> str:
    voxels, affine = array.astype(np.float32), np.diag([2.0, 2, 8, 1])
    if ".nii" in path.name:
        nib.save(nib.Nifti1Image(voxels, affine), path)
    else:
        write_volume(path, voxels, affine)
    return str(path)


@pytest.mark.parametrize("name", ["copy.nii.gz", "unpacked.nii", "slicer.nrrd", "snap.mhd", "turned"])
@pytest.mark.parametrize("section", ["training", "validation", "test", "unlabeled"])
def test_a_copy_of_an_image_is_found_by_its_content(write: Write, tmp_path: Path, name: str, section: str) -> None:
    first = write("a", RAMP, SOLID)
    if name == "turned":
        other = write("b", RAMP, SOLID, axcodes="LPS")
    else:
        other = {"case": "b", "image": _as(tmp_path / name, RAMP), "label": _as(tmp_path / f"label_{name}", SOLID)}
    sections: dict[str, list[Any]] = {"training": [first]}
    sections.setdefault(section, []).append(other)
    message = (
        rf"each image once, found the content of a_image\.nii\.gz \(`training` case a\) again in .*`{section}` case b"
    )
    with pytest.raises(ValueError, match=message):
        plan_task({**_datalist(), **sections})


def test_labels_that_are_the_same_are_worth_a_warning(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    plan_task(_datalist(write("a", RAMP, SOLID), write("b", RAMP + 1, SOLID), write("c", RAMP + 2, SOLID * 0)))
    assert "The labels of a_image.nii.gz and b_image.nii.gz, of different cases, are the same" in caplog.text
    assert "c_image" not in caplog.text


def _picture(folder: Path, case: str, colour: bool, value: int = 0) -> dict[str, Any]:
    entry = {"case": case, "image": str(folder / f"{case}.png"), "label": str(folder / f"{case}_mask.png")}
    pixels = np.arange(1200, dtype=np.uint8).reshape(20, 20, 3) + value
    Image.fromarray(pixels if colour else pixels[..., 0]).save(entry["image"])
    Image.fromarray((pixels[..., 0] > 100).astype(np.uint8)).save(entry["label"])
    return entry


@pytest.mark.parametrize("section", ["training", "validation", "test", "unlabeled"])
def test_grey_and_colour_are_not_mixed(tmp_path: Path, section: str) -> None:
    sections: dict[str, list[Any]] = {"training": [_picture(tmp_path, "a", True)]}
    sections.setdefault(section, []).append(_picture(tmp_path, "b", False))
    with pytest.raises(
        ValueError, match=r"one kind, found 3 channel\(s\) in a\.png and 1 in b\.png .*convert one kind"
    ):
        plan_task({**_datalist(), **sections})


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        (
            1,
            r"Expected 1 channel\(s\) as declared, found 3 in a\.png .*correct the datalist's `channels` or leave",
        ),
        (2, r"Expected 1 \(grey\) or 3 \(colour\) as the datalist's `channels`, found 2"),
        ("3", r"as the datalist's `channels`, found '3'"),
        (True, r"as the datalist's `channels`, found True"),
    ],
)
def test_channels_that_the_images_contradict_are_refused(tmp_path: Path, channels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_task(_datalist(_picture(tmp_path, "a", True), channels=channels))


def test_image_files_and_volumes_are_not_mixed(write: Write, tmp_path: Path) -> None:
    entries = write("a", RAMP, SOLID), _picture(tmp_path, "b", False)
    with pytest.raises(ValueError, match=r"found the 2D image b\.png and the volume a_image\.nii\.gz; make a datalist"):
        plan_task(_datalist(*entries))


def test_values_just_off_whole_numbers_are_planned(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    task = plan_task(_datalist(write("a", RAMP, SOLID * 0.9999999)))
    assert task.class_frequencies == (0.875, 0.125) and "off whole numbers; they are rounded" in caplog.text


@pytest.mark.parametrize("slices", [[4], [-1]])
def test_slices_that_a_volume_does_not_have_are_refused(write: Write, slices: list[int]) -> None:
    entry = {**write("a", RAMP, SOLID), "slices": slices}
    with pytest.raises(ValueError, match=rf"Expected slices of 0 to 3 of case a, found \[{slices[0]}\]"):
        plan_task(_datalist(entry))


def test_empty_sections_are_named(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    entry, other = write("a", RAMP, SOLID), write("b", RAMP + 1, SOLID)
    plan_task({**_datalist(entry), "test": [other]})
    assert "has no `validation` cases; without them training cannot choose its best weights." in caplog.text
    assert "`test` cases" not in caplog.text


def test_few_labelled_slices_leave_the_largest_component_to_validation(write: Write) -> None:
    scattered = SOLID.copy()
    scattered[0, 0, 0] = scattered[7, 7, 3] = 1  # 32 of 34 voxels are one component
    training = {**write("a", RAMP, scattered), "slices": [1, 2]}
    whole, parted = write("v", RAMP + 1, SOLID), write("w", RAMP + 2, scattered)
    for validation, expected in (
        ([], ()),
        ([whole], (1,)),
        ([whole, parted], ()),
        ([whole, {**parted, "slices": [1]}], ()),  # what is not labelled is not known
    ):
        task = plan_task({**_datalist(training), "validation": validation})
        assert task.keep_largest_component == expected
    full = {key: training[key] for key in ("image", "label", "case")}
    assert plan_task({**_datalist(full), "validation": [whole]}).keep_largest_component == ()


def test_another_modality_than_in_the_datalist_is_refused(tmp_path: Path, write_series: Callable[..., Any]) -> None:
    series = write_series(tmp_path / "scan")
    image = load_image_transform("image")({"image": series.folder})["image"]
    label = tmp_path / "label.nii.gz"
    nib.save(nib.Nifti1Image((np.asarray(image) > np.median(image)).astype(np.uint8), np.asarray(image.affine)), label)
    entry = {"case": "a", "image": str(series.folder), "label": str(label)}
    assert plan_task(_datalist(entry)).intensity.mode == "hu_window"  # DICOM says that it is CT
    with pytest.raises(
        ValueError, match=r"Expected images for `percentile` .*, found CT in series \w{8} of case a; correct"
    ):
        plan_task(_datalist(entry, modality="MR"))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"background": 0, "liver": 1}, r"from value to name .*, found name to value; turn them round"),
        ({"0": "background", "liver": "1"}, r"whole numbers as keys of `labels` .*, found 'liver'; write them as"),
    ],
)
def test_labels_of_other_tools_are_refused_with_the_form_to_write(labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_task({"labels": labels, "training": [{"image": "a.nii", "label": "b.nii", "case": "a"}]})

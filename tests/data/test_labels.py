from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from tskd_monai.data.labels import CheckLabelMatchesImaged, EncodeLabelsd, whole_labels
from tskd_monai.data.volume_reader import load_label_transform

AFFINE = torch.tensor([[-1.5, 0, 0, 80], [0, 1.5, 0, -60], [0, 0, 7, 10], [0, 0, 0, 1]], dtype=torch.float64)


def _volume(name: str, shape: tuple[int, ...] = (1, 6, 5, 4), affine: torch.Tensor = AFFINE) -> MetaTensor:
    return MetaTensor(torch.zeros(shape), affine=affine.clone(), meta={"filename_or_obj": f"/secret/{name}.nii.gz"})


@pytest.mark.parametrize("values", [(0, 1, 2, 3), (0, 63, 126, 189), (0, 200, 5), (0, 65535, 1), (0, 256)])
def test_encoding_gives_the_index_of_each_value(values: tuple[int, ...]) -> None:
    classes = torch.arange(60).reshape(1, 5, 4, 3) % len(values)
    label = MetaTensor(torch.tensor(values)[classes].float(), affine=AFFINE)
    encoded = EncodeLabelsd("label", values)({"label": label, "case": "a"})
    assert encoded["case"] == "a" and encoded["label"].dtype == torch.uint8
    assert torch.equal(encoded["label"].as_tensor(), classes.to(torch.uint8))
    assert torch.equal(encoded["label"].affine, AFFINE)


def test_encoding_does_not_change_its_input() -> None:
    label = torch.tensor([[0, 5, 200]])
    data = {"label": label}
    EncodeLabelsd("label", (0, 200, 5))(data)
    assert data["label"] is label and label.tolist() == [[0, 5, 200]]


@pytest.mark.parametrize(
    ("extra", "advice"),
    [
        (4, "of a datalist or task\\), or correct the file"),
        (1.5, "nearest-neighbour"),
        (-1, "correct the file"),
        (float("nan"), "nearest-neighbour"),
    ],
)
def test_an_undeclared_value_names_the_file(tmp_path: Path, extra: float, advice: str) -> None:
    voxels = np.zeros((4, 3, 2), np.float32)
    voxels[1, 1, 1], voxels[0, 0, 0] = extra, 1
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "case7_seg.nii.gz")
    loaded = load_label_transform(["label"])({"label": str(tmp_path / "case7_seg.nii.gz")})
    message = rf"case7_seg\.nii\.gz: expected label values \[0, 1, 2\], found also \[{extra}\]\. Declare .*{advice}"
    with pytest.raises(ValueError, match=message) as caught:
        EncodeLabelsd("label", (0, 1, 2))(loaded)
    assert str(tmp_path) not in str(caught.value)


def test_absent_labels_are_passed_over_only_if_allowed() -> None:
    assert EncodeLabelsd("label", (0, 1), allow_missing_keys=True)({"image": 1}) == {"image": 1}
    with pytest.raises(KeyError, match="label"):
        EncodeLabelsd("label", (0, 1))({"image": 1})


def test_a_label_on_the_image_grid_passes_unchanged() -> None:
    noise = torch.full((4, 4), 5e-4, dtype=torch.float64)  # single-precision headers differ by less
    data = {"image": _volume("a"), "label": _volume("b", affine=AFFINE + noise)}
    assert CheckLabelMatchesImaged()(data) is data
    colour = {"image": _volume("a", (3, 6, 5, 1)), "label": _volume("b", (1, 6, 5, 1))}
    assert CheckLabelMatchesImaged()(colour) is colour
    alone = {"image": _volume("a")}
    assert CheckLabelMatchesImaged()(alone) is alone


def test_another_shape_is_refused_with_both_names() -> None:
    data = {"image": _volume("img"), "label": _volume("seg", (1, 5, 6, 4))}
    expected = r"label seg\.nii\.gz of image img\.nii\.gz: expected shape \(6, 5, 4\), found \(5, 6, 4\)\. Resample"
    with pytest.raises(ValueError, match=expected):
        CheckLabelMatchesImaged()(data)


@pytest.mark.parametrize("flip", [False, True])
def test_another_affine_is_refused_with_both_names(flip: bool) -> None:
    other = AFFINE.clone()
    if flip:
        other[:3, 0] *= -1  # left and right swapped: same shape, same spacing
    else:
        other[2, 3] += 2.5
    data = {"image": _volume("img"), "label": _volume("seg", affine=other)}
    distance = "15" if flip else r"2\.5"
    with pytest.raises(ValueError, match=rf"label seg.* of image img.*: .* moves a corner by {distance} mm\. Resample"):
        CheckLabelMatchesImaged()(data)


def test_an_image_given_as_label_shows_a_few_of_its_values() -> None:
    with pytest.raises(ValueError, match=r"found also \[2, .*, 9\] and 90 more\. Declare") as caught:
        EncodeLabelsd("label", (0, 1))({"label": torch.arange(100.0)})
    assert len(str(caught.value)) < 250
    with pytest.raises(ValueError, match=r"expected label values \[0, .*, 7\] and 92 more, found also \[100\]"):
        EncodeLabelsd("label", range(100))({"label": torch.arange(101.0)})


def test_a_black_and_white_mask_is_named_as_such() -> None:
    mask = torch.tensor([[0, 255, 255]])
    with pytest.raises(ValueError, match=r"found also \[255\]\. In a black and white mask the label is 255: declare"):
        EncodeLabelsd("label", (0, 1))({"label": mask})
    assert EncodeLabelsd("label", (0, 255))({"label": mask})["label"].tolist() == [[0, 1, 1]]
    with pytest.raises(ValueError, match=r"found also \[1\]\. Write 255 instead of 1 into the file"):
        EncodeLabelsd("label", (0, 255))({"label": mask.clip(0, 1)})


def test_values_that_jpeg_changed_are_explained() -> None:
    mask = MetaTensor(torch.tensor([[0.0, 3.0, 255.0]]), meta={"filename_or_obj": "mask.JPG"})
    with pytest.raises(ValueError, match=r"mask\.JPG: .* found also \[3\]\. JPEG compression .* as PNG"):
        EncodeLabelsd("label", (0, 255))({"label": mask})


def test_values_just_off_a_whole_number_are_that_number(caplog: pytest.LogCaptureFixture) -> None:
    label = torch.tensor([[0.0, 0.9999999, 200.0005, 5.0]])
    assert EncodeLabelsd("label", (0, 1, 200, 5))({"label": label})["label"].tolist() == [[0, 1, 2, 3]]
    assert "the array: 2 label values are up to 0.0005 off whole numbers; they are rounded" in caplog.text
    with pytest.raises(ValueError, match=r"found also \[0\.99\d+\]\. Declare whole numbers"):
        EncodeLabelsd("label", (0, 1))({"label": torch.tensor([0.99])})


def test_whole_numbers_pass_without_a_word_and_others_stay(caplog: pytest.LogCaptureFixture) -> None:
    whole = np.array([0, 3], np.int16)
    assert whole_labels(whole, "a") is whole
    odd = np.array([0.5, np.nan, np.inf, 7], np.float32)
    np.testing.assert_array_equal(whole_labels(odd, "a"), odd)
    assert not caplog.text


def test_a_colour_image_is_no_label() -> None:
    data = {"image": _volume("img", (3, 6, 5, 1)), "label": _volume("seg", (3, 6, 5, 1))}
    with pytest.raises(
        ValueError, match=r"label seg.* of image img.*: expected 1 channel, found 3\. Save one number per voxel"
    ):
        CheckLabelMatchesImaged()(data)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_labelled_image_with_holes_is_refused(bad: float) -> None:
    image = _volume("img")
    image[0, 1, :, 2] = bad
    alone = {"image": image}
    assert CheckLabelMatchesImaged()(alone) is alone  # to be segmented: the intensity scaling repairs it
    with pytest.raises(ValueError, match=r"^img\.nii\.gz: expected finite voxels .*, found 5 that are NaN or infinite"):
        CheckLabelMatchesImaged()({**alone, "label": _volume("seg")})


def test_other_keys_can_be_named() -> None:
    data = {"scan": torch.zeros(1, 4, 4, 2), "mask": torch.zeros(1, 4, 4, 3), "label": 0, "image": 0}
    with pytest.raises(ValueError, match="label the array of image the array: expected shape"):
        CheckLabelMatchesImaged("scan", "mask")(data)


ORDERS = [((2, 0), (0, 1, 2)), ((1,), (1, 0, 2)), ((0, 1, 2), (2, 1, 0))]


@pytest.mark.parametrize(("flipped", "order"), ORDERS)
def test_a_label_in_another_order_of_axes_is_brought_onto_its_image(
    flipped: tuple[int, ...], order: tuple[int, ...], caplog: pytest.LogCaptureFixture
) -> None:
    """What a converter of DICOM writes: the same voxels at the same positions, with rows in opposite order."""
    image = _volume("image")
    labels = torch.arange(6 * 5 * 4).reshape(6, 5, 4).numpy()
    turn = np.array([[order.index(axis), -1 if axis in flipped else 1] for axis in range(3)])
    stored = nib.orientations.apply_orientation(labels, turn)
    affine = np.asarray(AFFINE) @ nib.orientations.inv_ornt_aff(turn, labels.shape)
    label = MetaTensor(
        torch.tensor(stored[None].copy()), affine=torch.tensor(affine), meta={"filename_or_obj": "l.nii"}
    )
    with caplog.at_level("DEBUG"):
        found = CheckLabelMatchesImaged()({"image": image, "label": label})["label"]
    np.testing.assert_array_equal(np.asarray(found)[0], labels)
    np.testing.assert_allclose(found.affine, AFFINE)
    assert "brought into the order of its image's; both are one grid" in caplog.text


def test_a_label_on_the_same_grid_stays_as_it_is_and_one_beside_it_is_refused() -> None:
    image, label = _volume("image"), _volume("label")
    assert CheckLabelMatchesImaged()({"image": image, "label": label})["label"] is label
    beside = AFFINE.clone()
    beside[0] *= -1  # rows in opposite order, but on the other side of the patient
    with pytest.raises(ValueError, match="expected the image's affine"):
        CheckLabelMatchesImaged()({"image": image, "label": _volume("label", affine=beside)})

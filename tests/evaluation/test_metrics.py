from __future__ import annotations

import json
import time
import warnings
from math import isnan
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice
from PIL import Image

from tskd_monai.evaluation.label_maps import load_prediction, load_reference
from tskd_monai.evaluation.metrics import case_metrics, evaluate_case, evaluate_cases
from tskd_monai.evaluation.summary import COLUMNS, read_metrics

ONE = {1: "organ"}
SPACING = (1.25, 0.8, 7.7)  # mm, different along every axis


def box(shape: tuple[int, int, int], *extents: tuple[int, int], label: int = 1) -> np.ndarray:
    array = np.zeros(shape, dtype=np.uint8)
    array[tuple(slice(*extent) for extent in extents)] = label
    return array


def only_row(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing: tuple[float, float, float] = SPACING,
    tolerance: float = 2.0,
) -> dict:
    (row,) = case_metrics(prediction, reference, spacing, ONE, tolerance)
    return row


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_sheet_moved_along_an_axis_is_as_many_mm_away(axis: int) -> None:
    reference = np.moveaxis(box((12, 16, 16), (3, 4), (0, 16), (0, 16)), 0, axis)
    prediction = np.moveaxis(box((12, 16, 16), (5, 6), (0, 16), (0, 16)), 0, axis)
    row = only_row(prediction, reference)
    assert row["hd95_mm"] == pytest.approx(2 * SPACING[axis])
    assert row["assd_mm"] == pytest.approx(2 * SPACING[axis])
    assert (row["dice"], row["iou"]) == (0, 0)


def test_one_voxel_moved_obliquely_is_at_its_euclidean_distance() -> None:
    reference = box((9, 9, 9), (2, 3), (2, 3), (2, 3))
    prediction = box((9, 9, 9), (5, 6), (6, 7), (3, 4))
    distance = float(np.linalg.norm(np.multiply((3, 4, 1), SPACING)))
    assert only_row(prediction, reference)["hd95_mm"] == pytest.approx(distance)
    assert only_row(prediction, reference)["assd_mm"] == pytest.approx(distance)


@pytest.mark.parametrize(("tolerance", "expected"), [(2.4, 0.0), (2.5, 1.0), (2.6, 1.0)])
def test_nsd_counts_the_surface_up_to_and_including_the_tolerance(tolerance: float, expected: float) -> None:
    reference = box((12, 10, 10), (3, 4), (0, 10), (0, 10))
    prediction = box((12, 10, 10), (5, 6), (0, 10), (0, 10))  # 2 x 1.25 mm away
    assert only_row(prediction, reference, tolerance=tolerance)["nsd"] == expected


def test_boxes_of_known_overlap_give_the_known_dice_iou_and_volume() -> None:
    reference = box((20, 20, 10), (2, 12), (2, 12), (2, 6))  # 400 voxels
    prediction = box((20, 20, 10), (7, 12), (2, 12), (2, 6))  # 200 of them
    row = only_row(prediction, reference)
    assert row["dice"] == pytest.approx(2 * 200 / 600)
    assert row["iou"] == pytest.approx(0.5)
    assert row["volume_ml"] == pytest.approx(200 * 1.25 * 0.8 * 7.7 / 1000)
    assert row["reference_volume_ml"] == pytest.approx(400 * 1.25 * 0.8 * 7.7 / 1000)


def test_concentric_balls_differ_by_their_radii_within_a_voxel() -> None:
    radius = np.linalg.norm(np.indices((65, 65, 65)) - 32.0, axis=0)
    row = only_row((radius <= 26).astype(np.uint8), (radius <= 20).astype(np.uint8), (1.0, 1.0, 1.0))
    assert row["assd_mm"] == pytest.approx(6, abs=0.5)
    assert row["hd95_mm"] == pytest.approx(6, abs=0.5)
    assert row["dice"] == pytest.approx(2 * 20**3 / (20**3 + 26**3), abs=0.01)


def test_agreement_is_perfect_with_itself_and_symmetric() -> None:
    generator = np.random.default_rng(0)
    one, two = (generator.random((12, 12, 6)) > 0.6).astype(np.uint8), box((12, 12, 6), (2, 9), (1, 8), (0, 4))
    row = only_row(one, one)
    assert (row["dice"], row["iou"], row["nsd"], row["hd95_mm"], row["assd_mm"]) == (1, 1, 1, 0, 0)
    there, back = only_row(one, two), only_row(two, one)
    assert all(there[key] == pytest.approx(back[key]) for key in ("dice", "iou", "nsd", "hd95_mm", "assd_mm"))


def test_distances_are_those_of_monai() -> None:
    generator = np.random.default_rng(1)
    maps = [generator.integers(0, 3, (6, 6, 4)).repeat(3, axis=0).repeat(3, axis=1) for _ in range(2)]
    predicted, expected = (torch.nn.functional.one_hot(torch.from_numpy(m), 3).movedim(-1, 0)[None] for m in maps)
    rows = case_metrics(maps[0], maps[1], SPACING, {1: "one", 2: "two"}, 2.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        hd95 = compute_hausdorff_distance(predicted, expected, percentile=95, spacing=SPACING)[0]
        assd = compute_average_surface_distance(predicted, expected, symmetric=True, spacing=SPACING)[0]
        nsd = compute_surface_dice(predicted, expected, [2.0, 2.0], spacing=SPACING)[0]
    assert [row["hd95_mm"] for row in rows] == pytest.approx(hd95.tolist(), rel=1e-5)
    assert [row["assd_mm"] for row in rows] == pytest.approx(assd.tolist(), rel=1e-5)
    assert [row["nsd"] for row in rows] == pytest.approx(nsd.tolist(), rel=1e-5)


def test_a_single_slice_is_measured_by_its_contour() -> None:
    reference = box((40, 40, 1), (5, 25), (5, 25), (0, 1))
    prediction = box((40, 40, 1), (8, 28), (5, 25), (0, 1))
    row = only_row(prediction, reference, (1.0, 1.0, 1.0))
    assert row["hd95_mm"] == pytest.approx(3)
    assert row["nsd"] < 0.9  # with the inner pixels as surface, most would lie within 2 mm


def test_empty_classes_follow_the_documented_convention() -> None:
    empty, full = np.zeros((6, 6, 6), dtype=np.uint8), box((6, 6, 6), (1, 4), (1, 4), (1, 4))
    both = only_row(empty, empty)
    assert all(isnan(both[key]) for key in ("dice", "iou", "nsd", "hd95_mm", "assd_mm")) and both["missed"] == 0
    for row in (only_row(empty, full), only_row(full, empty)):
        assert (row["dice"], row["iou"], row["nsd"], row["missed"]) == (0, 0, 0, 1)
        assert isnan(row["hd95_mm"]) and isnan(row["assd_mm"])


def test_a_clinical_case_takes_less_than_three_seconds() -> None:
    reference = np.zeros((256, 256, 46), dtype=np.uint8)
    for label, corner in enumerate([(20, 20), (20, 150), (150, 20), (150, 150)], start=1):
        reference[corner[0] : corner[0] + 80, corner[1] : corner[1] + 80, 5:40] = label
    start = time.process_time()
    rows = case_metrics(np.roll(reference, 3, axis=0), reference, (1.25, 1.25, 7.7), {n: str(n) for n in range(1, 5)})
    assert time.process_time() - start < 3
    assert len(rows) == 4


@pytest.mark.parametrize(
    ("prediction", "reference", "labels", "error", "message"),
    [
        (np.zeros((4, 4, 4), int), np.zeros((4, 4, 5), int), ONE, ValueError, r"\(4, 4, 4\).*\(4, 4, 5\)"),
        (np.zeros((4, 4), int), np.zeros((4, 4), int), ONE, ValueError, r"\(H, W, D\)"),
        (np.zeros((4, 4, 4)), np.zeros((4, 4, 4), int), ONE, TypeError, "integers in the prediction.*float64"),
        (np.zeros((4, 4, 4), int), np.zeros((4, 4, 4), int), {0: "background"}, ValueError, "not 0"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(
    prediction: np.ndarray, reference: np.ndarray, labels: dict[int, str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        case_metrics(prediction, reference, SPACING, labels)


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    nib.save(nib.Nifti1Image(array, np.diag([*SPACING, 1.0]) if affine is None else affine), path)
    return path


def test_files_give_the_metrics_of_their_arrays(tmp_path: Path) -> None:
    prediction, reference = box((8, 8, 4), (1, 5), (1, 5), (1, 3)), box((8, 8, 4), (2, 6), (1, 5), (1, 3))
    rows = evaluate_case(save(tmp_path / "p.nii.gz", prediction), save(tmp_path / "r.nii", reference), ONE, "7")
    expected = only_row(prediction, reference)
    assert rows[0]["case"] == "7"
    assert rows[0]["hd95_mm"] == pytest.approx(expected["hd95_mm"], rel=1e-5)
    assert rows[0]["volume_ml"] == pytest.approx(expected["volume_ml"], rel=1e-5)


def test_labels_are_read_as_training_reads_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    array = box((8, 8, 4), (1, 5), (1, 5), (1, 3))
    reference = save(tmp_path / "r.nii", array)
    off = save(tmp_path / "off.nii", (array * np.float32(0.9999999)).astype(np.float32))
    assert evaluate_case(off, reference, ONE, "1")[0]["dice"] == 1
    assert "off.nii: 32 label values are up to" in caplog.text
    palette = Image.fromarray(array[:, :, 1])
    palette.putpalette([0, 0, 0, 90, 90, 90])  # grey, and not the index
    palette.save(tmp_path / "palette.png")
    Image.fromarray(array[:, :, 1]).save(tmp_path / "grey.png")
    assert evaluate_case(tmp_path / "palette.png", tmp_path / "grey.png", ONE, "1")[0]["dice"] == 1
    cut = tmp_path / "cut.nii.gz"
    cut.write_bytes(save(tmp_path / "whole.nii.gz", array).read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"found cut\.nii\.gz truncated"):
        evaluate_case(cut, reference, ONE, "1")


def test_evaluate_cases_writes_a_table_and_its_summary(tmp_path: Path) -> None:
    reference, half = box((8, 8, 4), (0, 4), (0, 4), (0, 2)), box((8, 8, 4), (0, 2), (0, 4), (0, 2))
    label = save(tmp_path / "label.nii.gz", reference)
    predictions = {
        "a": save(tmp_path / "a.nii.gz", reference),
        "b": save(tmp_path / "b.nii.gz", half),
        "c": save(tmp_path / "c.nii.gz", np.zeros_like(reference)),
    }
    cases = [{"case": case, "label": label, "prediction": path} for case, path in predictions.items()]
    summary = evaluate_cases(cases, ONE, tmp_path / "out" / "metrics.csv")
    assert (tmp_path / "out" / "metrics.csv").read_text().splitlines()[0] == ",".join(COLUMNS)
    assert [row["dice"] for row in read_metrics(tmp_path / "out" / "metrics.csv")] == pytest.approx([1, 2 / 3, 0])
    assert summary == json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert summary["dice"]["mean"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert summary["classes"]["organ"]["missed"] == 1
    assert summary["hd95_mm"]["cases"] == 2
    low, high = summary["dice"]["interval_95"]
    assert 0 <= low <= summary["dice"]["mean"] <= high <= 1
    assert [path.name for path in (tmp_path / "out").iterdir() if path.name.startswith(".")] == []


def test_a_reference_that_training_would_refuse_is_not_scored(tmp_path: Path) -> None:
    mask = box((20, 30, 1), (5, 15), (5, 25), (0, 1))[..., 0]
    Image.fromarray(mask).save(tmp_path / "mask.png")
    assert evaluate_case(tmp_path / "mask.png", tmp_path / "mask.png", ONE, "1")[0]["dice"] == 1
    for factor, advice in ((255, "In a black and white mask the label is 255"), (7, "Declare them ")):
        Image.fromarray(mask * factor).save(tmp_path / "reference.png")
        with pytest.raises(ValueError, match=rf"reference\.png: expected label values .* \[{factor}\]\. {advice}"):
            evaluate_case(tmp_path / "mask.png", tmp_path / "reference.png", ONE, "1")
    array = box((8, 8, 4), (1, 5), (1, 5), (1, 3))
    prediction = save(tmp_path / "prediction.nii.gz", array)
    sheared = np.diag([*SPACING, 1.0])
    sheared[1, 2] = 2.0
    with pytest.raises(ValueError, match=r"orthogonal axes in .*sheared\.nii\.gz, found one sheared by 14\.\d degrees"):
        evaluate_case(prediction, save(tmp_path / "sheared.nii.gz", array, sheared), ONE, "1")
    no_spacing = nib.load(save(tmp_path / "no_spacing.nii", array))
    header = no_spacing.header.copy()
    header["sform_code"], header["qform_code"], header["pixdim"][1] = 0, 0, 0
    (tmp_path / "no_spacing.nii").write_bytes(header.binaryblock + bytes(4) + array.tobytes(order="F"))
    with pytest.raises(ValueError, match=r"spacing above 0 mm along each axis in the pixdim of no_spacing\.nii"):
        evaluate_case(prediction, tmp_path / "no_spacing.nii", ONE, "1")


def test_another_geometry_is_refused(tmp_path: Path) -> None:
    array = box((8, 8, 4), (1, 5), (1, 5), (1, 3))
    reference = save(tmp_path / "reference.nii.gz", array)
    moved = np.diag([*SPACING, 1.0])
    moved[0, 3] = 0.2
    with pytest.raises(ValueError, match=r"affine of .*reference.*moved.*0\.2 mm"):
        evaluate_case(save(tmp_path / "moved.nii.gz", array, moved), reference, ONE, "1")
    moved[0, 3] = 0.05  # the tolerance with which training pairs images and labels
    assert evaluate_case(save(tmp_path / "near.nii.gz", array, moved), reference, ONE, "1")[0]["dice"] == 1
    with pytest.raises(ValueError, match=r"shape \(8, 8, 4\) of .*reference.*\(8, 8, 2\)"):
        evaluate_case(save(tmp_path / "short.nii.gz", array[..., :2]), reference, ONE, "1")
    sheared = np.diag([*SPACING, 1.0])
    sheared[1, 2] = 2.0
    with pytest.raises(ValueError, match="orthogonal axes.*s.nii.gz, found one sheared"):
        evaluate_case(save(tmp_path / "s.nii.gz", array, sheared), reference, ONE, "1")


def test_files_that_are_no_label_maps_are_refused(tmp_path: Path) -> None:
    array = box((8, 8, 4), (1, 5), (1, 5), (1, 3))
    reference = save(tmp_path / "reference.nii.gz", array)
    with pytest.raises(ValueError, match=r"labels \[1\] and 0 in .*seven.*found \[7\]"):
        evaluate_case(save(tmp_path / "seven.nii.gz", array * 7), reference, ONE, "1")
    with pytest.raises(ValueError, match="whole numbers.*probability"):
        evaluate_case(save(tmp_path / "probability.nii.gz", array * np.float32(0.5)), reference, ONE, "1")
    many = np.arange(256, dtype=np.uint8).reshape(8, 8, 4)
    with pytest.raises(ValueError, match=r"found \[2, 3, .*, 9\] and 246 more; was it") as caught:
        evaluate_case(save(tmp_path / "many.nii.gz", many), reference, ONE, "1")
    assert len(str(caught.value)) < 400
    with pytest.raises(FileNotFoundError, match="absent"):
        evaluate_case(tmp_path / "absent.nii.gz", reference, ONE, "1")
    with pytest.raises(ValueError, match="entry 0.*missing.*prediction"):
        evaluate_cases([{"case": "1", "label": reference}], ONE, tmp_path / "metrics.csv")


def test_a_prediction_with_rows_in_opposite_order_scores_as_the_same_map(tmp_path: Path) -> None:
    """A student writes on the grid of the DICOM series; the reference may come from a converter."""
    rng = np.random.default_rng(0)
    affine = np.diag([-1.0, -1.5, 3.0, 1.0])
    reference, predicted = (rng.integers(0, 2, (6, 5, 4)).astype(np.uint8) for _ in range(2))
    flipped = affine.copy()
    flipped[1] = [0.0, 1.5, 0.0, -1.5 * 4]
    paths = [tmp_path / f"{name}.nii.gz" for name in ("reference", "same", "other")]
    for path, array, grid in zip(
        paths, (reference, predicted, predicted[:, ::-1]), (affine, affine, flipped), strict=True
    ):
        nib.save(nib.Nifti1Image(array, grid), path)
    expected = load_reference(paths[0], {1: "a"})
    same, other = (load_prediction(path, expected, {1: "a"}) for path in paths[1:])
    np.testing.assert_array_equal(same.array, other.array)
    np.testing.assert_allclose(same.affine, other.affine)

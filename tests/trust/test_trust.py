"""From labelled patients to a quality file, and from a case to its verdict."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow

from tests.support.paths import BUNDLES
from tskd_monai.bundle.student import write_student_bundle
from tskd_monai.commands.main import main
from tskd_monai.data.task import Intensity, QualityLimits, Task, load_task, save_task
from tskd_monai.files.json_files import read_json, write_json
from tskd_monai.networks.students import build_student
from tskd_monai.training.validation import slice_inferer
from tskd_monai.transforms.pipelines import preprocessing
from tskd_monai.trust.corruptions import CORRUPTIONS, corrupted
from tskd_monai.trust.dice_model import conformal_radius, fit_dice
from tskd_monai.trust.features import fit_features
from tskd_monai.trust.fitting import fit_quality
from tskd_monai.trust.quality_file import load_quality
from tskd_monai.trust.reasons import short_reasons
from tskd_monai.trust.shape import structure_shape
from tskd_monai.trust.signals import SignalCollector
from tskd_monai.trust.verdict import case_quality
from tskd_monai.trust.views import agreement, view_of, view_slices

STUDENT = "compact_unet_small"
SEGMENTATION = BUNDLES / "segmentation"


@pytest.fixture
def task(make_task: Callable[..., Task]) -> Task:
    return make_task(image_size=(32, 32), intensity=Intensity("percentile", 0.0, 100.0))


@pytest.fixture
def datalist(tmp_path: Path) -> Path:
    """Returns three patients, each with a liver and a spleen that are brighter than the rest."""
    entries = []
    for number in range(3):
        generator = np.random.default_rng(number)
        label = np.zeros((32, 32, 6), np.uint8)
        label[4 : 14 + number, 6:20, 1:5] = 1
        label[20:28, 10:18, 2:5] = 4
        image = (label * 100 + generator.normal(0, 20, label.shape)).astype(np.float32)
        for kind, array in (("image", image), ("label", label)):
            nib.save(nib.Nifti1Image(array, np.diag([-1.0, 1.0, 4.0, 1.0])), tmp_path / f"{kind}{number}.nii.gz")
        entries.append({"image": f"image{number}.nii.gz", "label": f"label{number}.nii.gz", "case": f"p{number}"})
    content = {"labels": {"0": "background", "1": "liver", "4": "spleen"}, "training": entries, "validation": []}
    write_json(tmp_path / "datalist.json", {**content, "test": []})
    return tmp_path / "datalist.json"


@pytest.fixture
def bundle(tmp_path: Path, task: Task) -> Path:
    torch.manual_seed(0)
    network = build_student(STUDENT, 1, task.num_classes, task.image_size)
    write_student_bundle(SEGMENTATION, tmp_path / "bundle", task, STUDENT, network.state_dict())
    return tmp_path / "bundle"


@pytest.fixture
def assessed(bundle: Path, datalist: Path, task: Task) -> Path:
    """Returns the bundle with a quality file."""
    fit_quality(
        datalist,
        preprocessing(task, ["image", "label"]),
        build_student(STUDENT, 1, task.num_classes, task.image_size),
        STUDENT,
        slice_inferer(task),
        task,
        bundle / "models" / "model.pt",
        bundle / "models",
    )
    return bundle


def segment(bundle: Path, image: Path, **overrides: Any) -> dict[str, Any]:
    """Segments one image; returns its record."""
    output_dir = bundle.parent / "out"
    workflow = ConfigWorkflow(
        str(bundle / "configs" / "inference.json"), workflow_type="infer", logging_file=False, engine="torch",
        bundle_root=str(bundle), image=str(image), output_dir=str(output_dir), device="cpu", **overrides,
    )  # fmt: skip
    workflow.initialize()
    try:
        workflow.run()
    finally:
        workflow.finalize()
    (record,) = read_json(output_dir / "summary.json")["studies"]
    return dict(record)


def limits_of(bundle: Path, **limits: float) -> None:
    """Sets limits in the task of a bundle."""
    path = bundle / "configs" / "task.json"
    write_json(path, {**read_json(path), "quality": limits})


def test_an_assessed_case_has_verdict_reasons_and_predicted_dice(assessed: Path, datalist: Path) -> None:
    limits_of(assessed, reject_dice=1e-6, reject_distance=1e6)
    record = segment(assessed, datalist.parent / "image0.nii.gz")
    quality = record["quality"]
    assert quality["verdict"] in ("ok", "look") and set(quality["predicted_dice"]) == {"liver", "spleen"}
    assert (quality["verdict"] == "ok") == (not quality["reasons"]) == (quality["risk"] <= 1)
    assert all(low == 0 and high == 1 for _, low, high in quality["predicted_dice"].values())  # three patients
    with (assessed.parent / "out" / "qc.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["study"], row["verdict"]) == ("image0", quality["verdict"])


def test_rejected_case_is_written_unless_refused(assessed: Path, datalist: Path) -> None:
    limits_of(assessed, reject_distance=1e-6)
    image, output_dir = datalist.parent / "image0.nii.gz", assessed.parent / "out"
    with pytest.raises(RuntimeError) as raised:
        segment(assessed, image, rejected="refuse")
    assert "Expected an image that the student can segment, found: " in str(raised.value.__cause__)
    assert read_json(output_dir / "summary.json")["studies"][0]["quality"]["verdict"] == "reject"
    assert not list(output_dir.glob("*.nii.gz"))
    record = segment(assessed, image)
    assert record["quality"]["verdict"] == "reject" and (output_dir / "image0_seg.nii.gz").is_file()


@pytest.mark.parametrize("depth", [1, 6])
def test_constant_image_is_unlike_the_training_images(assessed: Path, datalist: Path, depth: int) -> None:
    image = datalist.parent / "constant.nii.gz"
    nib.save(nib.Nifti1Image(np.full((32, 32, depth), 7, np.int16), np.diag([-1.0, 1.0, 4.0, 1.0])), image)
    quality = segment(assessed, image)["quality"]
    assert quality["verdict"] == "reject"
    assert any(reason.startswith("unlike the training images") for reason in quality["reasons"])
    assert ("a single slice, in training volumes" in quality["reasons"]) == (depth == 1)


def test_hounsfield_units_for_an_mr_student_are_rejected(assessed: Path, datalist: Path) -> None:
    path = assessed / "configs" / "task.json"
    ranges = {"field_of_view_mm": [32, 32], "pixel_mm": [1, 1], "slice_mm": [4, 4], "values": [0, 500]}
    limits = {"reject_dice": 1e-6, "reject_distance": 1e6}
    write_json(path, {**read_json(path), "training_images": ranges, "quality": limits})
    loaded = nib.load(datalist.parent / "image0.nii.gz")
    image = datalist.parent / "ct.nii.gz"
    nib.save(nib.Nifti1Image(loaded.get_fdata() * 4 - 1000, loaded.affine), image)
    quality = segment(assessed, image)["quality"]
    assert any(reason.startswith("values -1") for reason in quality["reasons"]) and quality["verdict"] == "reject"


def test_a_field_of_view_of_another_part_of_the_body_is_rejected(assessed: Path, datalist: Path) -> None:
    limits_of(assessed, reject_dice=1e-6, reject_distance=1e6)
    loaded = nib.load(datalist.parent / "image0.nii.gz")
    verdicts = {}
    for name, scale in (("near", 0.6), ("far", 0.4)):
        image = datalist.parent / f"{name}.nii.gz"
        nib.save(nib.Nifti1Image(loaded.get_fdata(), loaded.affine @ np.diag([scale, scale, 1, 1])), image)
        quality = segment(assessed, image)["quality"]
        assert any(reason.startswith("field of view") for reason in quality["reasons"])
        verdicts[name] = quality["verdict"]
    assert verdicts == {"near": "look", "far": "reject"}


def test_the_most_important_reasons_are_stated() -> None:
    assert short_reasons(["a", "b"]) == "a; b"
    assert short_reasons(list("abcdefg")) == "a; b; c; d; and 3 more in qc.csv"


def test_empty_prediction_names_each_structure_that_is_not_found(assessed: Path, task: Task) -> None:
    quality = load_quality(assessed / "models" / "quality.json", assessed / "models" / "model.pt", task)
    network = build_student(STUDENT, 1, task.num_classes, task.image_size)
    collector, background = SignalCollector(task, quality.layer), torch.zeros(6, task.num_classes, 32, 32)
    background[:, 0] = 9
    collector.add(background)
    found = case_quality(collector.finish(torch.rand(1, 32, 32, 6), (1, 1, 4), network), quality, QualityLimits())
    assert found.verdict != "ok" and {"liver: not found", "spleen: not found"} <= set(found.reasons)


def test_student_without_quality_file_segments_as_before(bundle: Path, datalist: Path) -> None:
    record = segment(bundle, datalist.parent / "image0.nii.gz", rejected="refuse")
    assert record["status"] == "done" and "quality" not in record
    assert not (bundle.parent / "out" / "qc.csv").exists()


def test_quality_file_of_other_weights_is_refused(
    assessed: Path, datalist: Path, task: Task, caplog: pytest.LogCaptureFixture
) -> None:
    weights = assessed / "models" / "model.pt"
    load_quality(assessed / "models" / "quality.json", weights, task)
    state = {name: value * 2 for name, value in torch.load(weights, weights_only=True).items()}
    torch.save(state, weights)
    with pytest.raises(ValueError, match="Expected quality.json fitted for the weights"):
        load_quality(assessed / "models" / "quality.json", weights, task)
    with caplog.at_level("WARNING", logger="tskd_monai"):
        assert "quality" not in segment(assessed, datalist.parent / "image0.nii.gz")
    assert "No case is assessed: Expected quality.json fitted for the weights" in caplog.text


@pytest.mark.parametrize(
    ("field", "value"),
    [("format_version", 2), ("layer", 3), ("structures", {}), ("features", {"mean": [1.0]}), ("dice", {"means": [1]})],
)
def test_damaged_quality_file_names_the_field(assessed: Path, task: Task, field: str, value: Any) -> None:
    path = assessed / "models" / "quality.json"
    write_json(path, {**read_json(path), field: value})
    with pytest.raises(ValueError, match=r"Expected .*quality\.json.*; fit it again"):
        load_quality(path, assessed / "models" / "model.pt", task)


def test_limits_are_kept_in_the_task_and_checked(task: Task, tmp_path: Path) -> None:
    save_task(task, tmp_path / "task.json")
    content = read_json(tmp_path / "task.json")
    assert load_task(tmp_path / "task.json").quality == QualityLimits()
    write_json(tmp_path / "task.json", {**content, "quality": {"look_dice": 0.5}})
    changed = load_task(tmp_path / "task.json")
    assert changed.quality == QualityLimits(look_dice=0.5) and changed.hash == task.hash
    write_json(tmp_path / "task.json", {**content, "quality": {"look_dice": 1.5}})
    with pytest.raises(ValueError, match=r"expected a fraction in `quality\.look_dice`, found 1\.5"):
        load_task(tmp_path / "task.json")


def test_shape_of_two_boxes() -> None:
    mask = np.zeros((5, 20, 10), bool)
    mask[0:4, 2:6, 2:4], mask[1:3, 12:16, 2:4] = True, True
    shape = structure_shape(mask, (2.0, 1.0, 5.0))
    assert shape.volume == pytest.approx((32 + 16) * 10 / 1000)
    assert (shape.second_part, shape.extent, shape.cut, shape.border) == (0.5, 20.0, 0.5, 0.0)
    assert shape.position == pytest.approx((22 / 3 / 20, 0.3, 2 / 5))
    largest = structure_shape(mask, (2.0, 1.0, 5.0), only_largest=True)
    assert (largest.volume, largest.second_part) == (pytest.approx(0.32), 0.5)
    assert largest.position == pytest.approx((0.2, 0.3, 2 / 5))
    assert structure_shape(np.zeros((5, 20, 10), bool), (1.0, 1.0, 1.0)).volume == 0


def test_view_keeps_the_whole_slice_and_identical_views_agree() -> None:
    image = torch.zeros(1, 1, 24, 40)
    image[..., :4, :4], image[..., -4:, -4:] = 1, 2  # two opposite corners
    for window in ((32, 48), (16, 16)):
        seen = view_of(image, window)
        assert seen.shape == (1, 1, *window)
        assert (seen == 1).any() and (seen == 2).any()
    assert view_slices(36).tolist() == [2, 6, 10, 14, 18, 22, 26, 30, 34] and view_slices(1).tolist() == [0]
    labels = torch.tensor([[[0, 1], [1, 0]]])
    assert agreement(labels, labels, 3) == [1.0, 1.0, None]


def test_feature_distance_of_a_training_case_is_at_most_one_and_grows_outside() -> None:
    generator = np.random.default_rng(0)
    cases = [generator.normal(size=(12, 20)) + generator.normal(size=20) / 4 for _ in range(6)]
    model = fit_features(cases)
    near = max(model.distance(case) for case in cases)
    assert near <= 1.0 and model.distance(cases[0] + 20) > 5
    with pytest.raises(ValueError, match="at least two training patients"):
        fit_features(cases[:1])


def test_interval_needs_nine_patients_and_covers() -> None:
    assert conformal_radius([np.array([0.1])] * 8) is None
    assert conformal_radius([np.array([0.1])] * 9) == 0.1
    assert fit_dice(np.eye(3), np.array([0.5, 0.6, 0.7]), ["only"] * 3, 1).radius is None
    generator = np.random.default_rng(0)
    signals = generator.normal(size=(400, 3))
    dice = np.clip(0.7 + 0.1 * signals[:, 0] + generator.normal(0, 0.05, 400), 0, 1)
    patients = [str(index // 4) for index in range(400)]
    model = fit_dice(signals[:200], dice[:200], patients[:200], 50)
    found = [model.predict(row) for row in signals[200:]]
    covered = np.mean([one.low <= true <= one.high for one, true in zip(found, dice[200:], strict=True)])
    assert 0.85 <= covered <= 0.97 and np.corrcoef([one.value for one in found], dice[200:])[0, 1] > 0.8


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corruption_changes_the_image_and_keeps_its_label(name: str) -> None:
    image = torch.rand(1, 16, 20, 7, generator=torch.Generator().manual_seed(0))
    depth = torch.arange(7, dtype=torch.float32).expand(1, 16, 20, 7)
    changed, label = corrupted(name, image, depth.clone(), np.random.default_rng(1))
    assert changed.shape == label.shape and 0 <= changed.min() <= changed.max() <= 1
    assert changed.shape != image.shape or not torch.equal(changed, image)
    if name == "half of the slices":
        assert torch.equal(changed, image[..., label[0, 0, 0].long()]) and label.shape[-1] == 4
    else:
        assert torch.equal(label, depth)


def test_tskd_segment_refuses_a_rejected_case_unless_forced(
    assessed: Path, datalist: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limits_of(assessed, reject_distance=1e-6)
    image, output_dir = str(datalist.parent / "image0.nii.gz"), str(assessed.parent / "out")
    command = ["segment", str(assessed), image, "--output-dir", output_dir, "--engine", "torch"]
    assert main(command) == 1
    assert "image0: FAILED: Expected an image that the student can segment" in capsys.readouterr().out
    assert not list(Path(output_dir).glob("*.nii.gz"))
    assert main([*command, "--force"]) == 0
    assert "-> image0_seg.nii.gz [reject" in capsys.readouterr().out

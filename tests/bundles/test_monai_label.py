"""A student bundle as MONAI Label uses it. The server itself is driven by tests/interop/check_monai_label.sh."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.bundle import run

from tests.bundles import monai_label_requests as monai_label
from tests.support.paths import ROOT
from tskd_monai.bundle.student import write_student_bundle
from tskd_monai.data.task import Intensity, Label, Task
from tskd_monai.files.json_files import read_json, write_json
from tskd_monai.inference.failures import root_cause
from tskd_monai.networks.students import build_student
from tskd_monai.training.checkpoint import EpochCheckpoint

TEMPLATE = ROOT / "bundles" / "segmentation"
TASK = Task(
    name="two organs",
    labels=(Label(0, "background"), Label(1, "Liver"), Label(2, "left kidney")),
    channels=1,
    image_size=(32, 32),
    pixdim=(8.0, 8.0),
    axcodes="PLS",
    intensity=Intensity("percentile", 0.5, 99.5),
)
SHAPE = (28, 30, 4)
AFFINE = np.diag([-9.0, 9.0, 20.0, 1.0])


@pytest.fixture
def student(tmp_path: Path) -> Path:
    """A student of random weights that trains in seconds."""
    torch.manual_seed(0)
    network = build_student("compact_unet_small", TASK.channels, TASK.num_classes, TASK.image_size)
    bundle = tmp_path / "student"
    write_student_bundle(TEMPLATE, bundle, TASK, "compact_unet_small", network.state_dict())
    config = read_json(bundle / "configs/train.json")
    write_json(bundle / "configs/train.json", {**config, "epoch_length": 2, "batch_size": 2})
    return bundle


def labelled_scans(folder: Path, count: int) -> list[dict[str, str]]:
    """Writes scans with a bright liver and a brighter kidney, as items of MONAI Label."""
    items = []
    for number in range(count):
        label = np.zeros(SHAPE, np.uint8)
        label[4:14, 5:15], label[16:24, 18:26] = 1, 2
        image = np.random.default_rng(number).integers(0, 100, SHAPE).astype(np.int16) + 300 * label.astype(np.int16)
        item = {"image": str(folder / f"scan{number}.nii.gz"), "label": str(folder / f"label{number}.nii.gz")}
        nib.save(nib.Nifti1Image(image, AFFINE), item["image"])
        nib.save(nib.Nifti1Image(label, AFFINE), item["label"])
        items.append(item)
    return items


def test_labels_are_offered_in_lower_case_with_the_values_of_the_label_map(student: Path) -> None:
    assert monai_label.offered_labels(student) == {"liver": 1, "left kidney": 2}
    offered = monai_label.offered_labels(TEMPLATE)
    task = json.loads((TEMPLATE / "configs/task.json").read_text())
    assert offered == {label["name"]: label["value"] for label in task["labels"][1:]}


def test_everything_that_inference_reads_is_made_without_an_image_or_a_datalist(student: Path) -> None:
    parser = monai_label.open_config(student, "inference.json")
    for id_ in monai_label.INFERENCE_IDS:
        assert parser.get_parsed_content(id_, instantiate=True) is not None
    preprocessing = monai_label.transforms(parser, "preprocessing")
    assert isinstance(preprocessing[0], monai_label.LoadImaged)
    saved = [t for t in monai_label.transforms(parser, "postprocessing") if isinstance(t, monai_label.SaveImaged)]
    assert len(saved) == 1  # which MONAI Label leaves out, or every request would write into predictions/


def test_the_weights_are_those_of_the_network(student: Path) -> None:
    network = monai_label.open_config(student, "inference.json").get_parsed_content("network_def", instantiate=True)
    weights = torch.load(student / "models/model.pt", weights_only=True)
    assert set(weights) == set(network.state_dict())  # MONAI Label does not check


def test_a_request_gives_the_bundle_runners_label_map(student: Path, tmp_path: Path) -> None:
    (scan,) = labelled_scans(tmp_path, 1)
    data = monai_label.infer(student, Path(scan["image"]))
    run(
        config_file=str(student / "configs/inference.json"),
        bundle_root=str(student),
        logging_file=False,
        image=scan["image"],
        output_dir=str(tmp_path / "predictions"),
        device="cpu",
    )
    expected = nib.load(tmp_path / "predictions/scan0_seg.nii.gz")
    np.testing.assert_array_equal(data["pred"][0].numpy(), np.asarray(expected.dataobj))
    # MONAI Label takes the size to restore and the affine to write from the image's metadata.
    assert tuple(data["image"].meta["spatial_shape"]) == SHAPE
    np.testing.assert_allclose(data["image"].meta["original_affine"], AFFINE)
    assert not Path("predictions").exists()


def test_every_id_that_training_sets_is_in_the_config(student: Path) -> None:
    parser = monai_label.open_config(student, "train.json")
    missing = object()
    assert [id_ for id_ in monai_label.TRAINING_OVERRIDES if parser.get(id_, missing) is missing] == []


def test_training_keeps_the_best_weights_and_ends_the_schedule_with_its_last_epoch(
    student: Path, tmp_path: Path
) -> None:
    before = torch.load(student / "models/model.pt", weights_only=True)
    scans = labelled_scans(tmp_path, 2)
    monai_label.train(student, scans[:1], scans[1:])
    rows = [json.loads(line) for line in (student / "models/history.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert rows[-1]["learning_rate"] == pytest.approx(0, abs=1e-9) and rows[0]["learning_rate"] > 1e-5
    after = torch.load(student / "models/model.pt", weights_only=True)
    assert set(after) == set(before)


def test_every_request_trains_and_one_that_was_interrupted_is_resumed(
    student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans, history = labelled_scans(tmp_path, 3), student / "models/history.jsonl"
    for _ in range(2):
        monai_label.train(student, scans[:2], scans[2:])
        assert [json.loads(line)["epoch"] for line in history.read_text().splitlines()] == [1, 2, 3]
        history.unlink()
    assert not (student / "models/last.pt").exists()

    whole = EpochCheckpoint.save

    def save_once(self: EpochCheckpoint, engine: Engine) -> None:
        whole(self, engine)
        raise KeyboardInterrupt

    monkeypatch.setattr(EpochCheckpoint, "save", save_once)
    with pytest.raises(KeyboardInterrupt):
        monai_label.train(student, scans[:2], scans[2:])
    monkeypatch.undo()
    monai_label.train(student, scans[:2], scans[2:])
    iterations = [json.loads(line)["iteration"] for line in history.read_text().splitlines()]
    assert iterations == [2, 4, 6]  # the first epoch's line came from the checkpoint


def test_labels_without_an_organ_are_refused_or_warned_of(
    student: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    task = read_json(student / "configs/task.json")
    write_json(student / "configs/task.json", {**task, "class_frequencies": [0.8, 0.1, 0.1]})
    (scan,) = labelled_scans(tmp_path, 1)
    nib.save(
        nib.Nifti1Image((np.asarray(nib.load(scan["label"]).dataobj) == 1).astype(np.uint8), AFFINE), scan["label"]
    )
    with pytest.raises(RuntimeError) as raised:
        monai_label.train(student, [scan], [])
    assert "no voxel of 2 (left kidney)" in str(root_cause(raised.value))
    write_json(student / "configs/train.json", {**read_json(student / "configs/train.json"), "absent_classes": "warn"})
    monai_label.train(student, [scan], [])
    assert "No voxel of 2 (left kidney) in the training labels" in "".join(capfd.readouterr())


def test_a_single_label_is_enough_to_train_on(student: Path, tmp_path: Path) -> None:
    monai_label.train(student, labelled_scans(tmp_path, 1), [])
    rows = [json.loads(line) for line in (student / "models/history.jsonl").read_text().splitlines()]
    assert "val_mean_dice" in rows[-1]


def test_a_label_that_the_task_does_not_have_is_named(student: Path, tmp_path: Path) -> None:
    (scan,) = labelled_scans(tmp_path, 1)
    nib.save(nib.Nifti1Image(np.full(SHAPE, 5, np.uint8), AFFINE), scan["label"])
    with pytest.raises(RuntimeError) as raised:
        monai_label.train(student, [scan], [])
    cause: BaseException = raised.value
    while cause.__cause__ is not None:
        cause = cause.__cause__
    assert "label0.nii.gz: expected label values [0, 1, 2], found also [5" in str(cause)

"""The transfer dataset: real slices without labels, then synthetic images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import DataLoader
from monai.transforms import Compose, RandGaussianNoised, RandShiftIntensityd
from PIL import Image
from torch.utils.data import Dataset

from tskd_monai.data.datalist import load_datalist
from tskd_monai.data.planning.rules import plan_task
from tskd_monai.data.slices import SliceDataset
from tskd_monai.data.task import Task
from tskd_monai.datasets.phantom.study import write_study
from tskd_monai.distillation.transfer_dataset import TransferDataset, transfer_dataset
from tskd_monai.files.checksum import file_sha256
from tskd_monai.files.json_files import read_json, write_json
from tskd_monai.transforms.pipelines import augmentation, training_preprocessing

SECTIONS = {"training": 1, "validation": 1, "test": 1, "unlabeled": 1}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(
        tmp_path_factory.mktemp("study"), seed=1, sections=SECTIONS, shape=(32, 32, 6), spacing=(10.0, 10.0, 25.0)
    )


def write_synthetic(folder: Path, task: Task) -> Path:
    """One synthetic image whose pixels are 51, which is 0.2."""
    (folder / "images").mkdir(parents=True)
    image = folder / "images/000000.png"
    Image.fromarray(np.full(task.image_size, 51, np.uint8)).save(image)
    entry = {
        "image": "images/000000.png",
        "case": "synthetic_000000",
        "origin": "synthetic",
        "seed": 0,
        "condition": None,
    }
    settings = {"checkpoint_sha256": "0" * 64, "sampler": "ddim", "num_inference_steps": 2, "batch_size": 1}
    manifest = {
        **settings,
        "format_version": 2,
        "task_hash": task.hash,
        "image_size": list(task.image_size),
        "channels": 1,
        "pixdim": list(task.pixdim),
        "base_seed": 0,
        "condition": {"kind": "none"},
        "unlabeled": [{**entry, "sha256": file_sha256(image)}],
    }
    write_json(folder / "transfer_set.json", manifest)
    return folder


def test_real_slices_come_first_and_synthetic_ones_last(study: Path, tmp_path: Path) -> None:
    task = plan_task(load_datalist(study), image_size=32)
    synthetic = write_synthetic(tmp_path, task)
    preprocessing = training_preprocessing(task, ["image"])
    dataset = transfer_dataset(study, task, preprocessing, augmentation(["image"], strength=0.0), synthetic)
    assert len(dataset) == 2 * 6 + 1
    assert all(set(dataset[index]) == {"image", "slice", "position"} for index in (0, 12))
    assert dataset[0]["image"].shape == dataset[12]["image"].shape == (1, 32, 32)
    bare = transfer_dataset(study, task, preprocessing, augmentation(["image"]))
    assert len(bare) == 12
    with pytest.raises(IndexError):
        dataset[13]


def test_seed_decides_the_augmentation_of_every_part(study: Path, tmp_path: Path) -> None:
    task = plan_task(load_datalist(study), image_size=32)
    synthetic = write_synthetic(tmp_path, task)
    dataset = transfer_dataset(study, task, training_preprocessing(task, ["image"]), augmentation(["image"]), synthetic)
    for index in (3, 12):
        first = dataset.set_random_state(seed=7)[index]["image"]
        second = dataset.set_random_state(seed=7)[index]["image"]
        assert torch.equal(torch.as_tensor(first), torch.as_tensor(second))


@pytest.mark.parametrize(("use_failed", "synthetic"), [(False, 0), (True, 1)])
def test_a_set_that_failed_its_gates_is_left_out(
    study: Path, tmp_path: Path, use_failed: bool, synthetic: int, caplog: pytest.LogCaptureFixture
) -> None:
    task = plan_task(load_datalist(study), image_size=32)
    path = write_synthetic(tmp_path, task) / "transfer_set.json"
    verdict = {"passed": False, "reason": "The images are blurred.", "use_failed": use_failed}
    write_json(path, {**read_json(path), "verdict": verdict})
    dataset = transfer_dataset(study, task, training_preprocessing(task, ["image"]), None, path)
    assert len(dataset) == 12 + synthetic
    assert "failed its gates" in caplog.text and "The images are blurred." in caplog.text


def test_transfer_set_of_another_task_is_refused(study: Path, tmp_path: Path) -> None:
    task, other = (plan_task(load_datalist(study), image_size=32, name=name) for name in ("one", "other"))
    synthetic = write_synthetic(tmp_path, other)
    with pytest.raises(ValueError, match="Expected a transfer set of task"):
        transfer_dataset(study, task, training_preprocessing(task, ["image"]), augmentation(["image"]), synthetic)


def noise() -> Compose:
    return Compose([RandShiftIntensityd("image", 0.3, prob=0.7), RandGaussianNoised("image", prob=1.0, std=0.1)])


def slices(depth: int, transform: Compose | None = None) -> SliceDataset:
    """A volume whose voxels are 10 times its depth plus the slice's index."""
    volume = {"image": 10.0 * depth + torch.arange(depth, dtype=torch.float32).expand(1, 6, 5, -1)}
    return SliceDataset([{"case": "a"}] if depth else [], lambda entry: volume, transform, keys=("image",))


def images_of(dataset: Dataset) -> torch.Tensor:
    return torch.stack([dataset[index]["image"] for index in range(len(dataset))])


def test_parts_follow_one_another() -> None:
    joined = TransferDataset([slices(0), slices(4), slices(0), slices(3)])
    assert len(joined) == 7 and len(TransferDataset([slices(0)])) == 0
    assert torch.equal(images_of(joined), torch.cat([images_of(slices(4)), images_of(slices(3))]))
    with pytest.raises(IndexError):
        joined[7]


def test_parts_are_seeded_together() -> None:
    shared = noise()
    for second in (shared, noise()):  # one transform for both, as in distillation, or each its own
        joined = TransferDataset([slices(4, shared), slices(3, second)])
        draws = [images_of(joined.set_random_state(seed)) for seed in (5, 5, 6)]
        assert torch.equal(draws[0], draws[1])
        for part in (slice(0, 4), slice(4, 7)):
            assert not torch.equal(draws[0][part], draws[2][part])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_loader_draws_the_same_after_the_same_seed(num_workers: int) -> None:
    """As `ReseedEachEpoch` does: a resumed epoch draws what it would have drawn without the interruption."""

    def epoch(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        dataset.set_random_state(seed)
        return torch.cat([batch["image"] for batch in DataLoader(dataset, batch_size=2, num_workers=num_workers)])

    dataset = TransferDataset([slices(4, noise()), slices(3, noise())])
    first = epoch(1)
    assert not torch.equal(first, epoch(2)) and torch.equal(first, epoch(1))

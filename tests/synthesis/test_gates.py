from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from PIL import Image

from tskd_monai.data.gates_file import Gates, read_gates
from tskd_monai.data.slices import SliceDataset
from tskd_monai.data.task import Task
from tskd_monai.data.transfer_set import load_transfer_set
from tskd_monai.files.checksum import file_sha256
from tskd_monai.synthesis.diffusion import build_noise_scheduler, build_unet
from tskd_monai.synthesis.gate_networks import (
    GateEncoder,
    class_mean_confidence,
    gate_encoder,
    gate_teacher,
    teacher_confidence,
)
from tskd_monai.synthesis.gates import check_transfer_set
from tskd_monai.synthesis.memorisation import nearest_in_features, nearest_in_pixels
from tskd_monai.synthesis.realism import kernel_distances, pair_similarities, spread
from tskd_monai.synthesis.sampling import ImageSampler
from tskd_monai.synthesis.transfer_set_writer import write_transfer_set

SIDE = 48


def blobs(number: int, seed: int, side: int = SIDE) -> torch.Tensor:
    """Smooth random images (N, 1, side, side) in [0, 1]."""
    coarse = torch.rand(number, 1, 6, 6, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)


def test_a_flipped_and_shifted_copy_is_at_distance_zero() -> None:
    references = blobs(5, 0)
    copies = torch.stack([references[3].roll((2, -3), (-2, -1)), references[1].flip(-1), references[4].flip((-2, -1))])
    found = nearest_in_pixels(copies, references)
    assert found.indices.tolist() == [3, 1, 4]
    assert found.distances.max() < 1e-3
    far = nearest_in_pixels(references[:1].roll(20, -1), references[:1])
    assert far.distances[0] > 0.05


def test_the_distance_is_the_least_over_flips_and_shifts() -> None:
    image, reference = blobs(1, 1, 16), blobs(1, 2, 16)
    expected = min(
        float((image.flip(flip).roll((rows, columns), (-2, -1)) - reference).square().mean().sqrt())
        for flip in ((), (-1,), (-2,), (-2, -1))
        for rows in (-1, 0, 1)
        for columns in (-1, 0, 1)
    )
    assert nearest_in_pixels(image, reference).distances[0] == pytest.approx(expected, abs=1e-5)


def test_a_patients_own_images_do_not_count() -> None:
    images = blobs(4, 3)
    images[1] = images[0]
    cases = ["a", "a", "b", "c"]
    found = nearest_in_pixels(images, images, image_groups=cases, reference_groups=cases)
    assert found.distances.min() > 0.01
    assert all(cases[int(index)] != case for index, case in zip(found.indices, cases, strict=True))
    features = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    distances = nearest_in_features(features, features, cases, cases).distances
    np.testing.assert_allclose(distances, 1 - np.sqrt(0.5))
    with pytest.raises(ValueError, match="of at least two patients"):
        nearest_in_pixels(images, images, image_groups=["a"] * 4, reference_groups=["a"] * 4)


def test_kernel_distance_is_unbiased_and_grows_with_a_shift() -> None:
    generator = np.random.default_rng(0)
    equal = [
        kernel_distances(generator.normal(size=(60, 8)), generator.normal(size=(60, 8)), 4, 60, 0)[0]
        for _ in range(200)
    ]
    assert abs(np.mean(equal)) < 3 * np.std(equal) / np.sqrt(200)
    assert min(equal) < 0
    x, y = generator.normal(size=(80, 8)), generator.normal(size=(90, 8))
    near, far = (kernel_distances(x, y + shift, seed=1).mean() for shift in (0.3, 1.0))
    assert 0 < near < far
    assert np.array_equal(kernel_distances(x, y, seed=5), kernel_distances(x, y, seed=5))
    assert not np.array_equal(kernel_distances(x, y, seed=5), kernel_distances(x, y, seed=6))
    with pytest.raises(ValueError, match="found 1 and 90"):
        kernel_distances(x[:1], y)


def test_pairs_of_one_image_are_alike_and_others_are_not() -> None:
    images = blobs(6, 4)
    assert pair_similarities(images[:1].repeat(3, 1, 1, 1)).min() == pytest.approx(1, abs=1e-5)
    assert pair_similarities(images).mean() < 0.9
    doubled = images.repeat_interleave(2, 0)
    apart = pair_similarities(doubled, groups=[index // 2 for index in range(12)], pairs=500)
    assert len(apart) == 60 and apart.max() < 0.99
    with pytest.raises(ValueError, match="at least two images"):
        pair_similarities(images, groups=["a"] * 6)


def test_confidence_gives_each_predicted_class_the_same_weight() -> None:
    probability = torch.full((1, 3, 2, 2), 0.05)
    probability[0, 0] = torch.tensor([[0.9, 0.9], [0.9, 0.45]])
    probability[0, 1] = torch.tensor([[0.05, 0.05], [0.05, 0.5]])
    assert float(class_mean_confidence(probability.log())) == pytest.approx((0.9 + 0.5) / 2)
    blank = torch.tensor([4.0, 0.0]).view(1, 2, 1, 1).expand(3, 2, 4, 4)
    confidence = teacher_confidence(lambda images: blank[: len(images)], torch.zeros(3, 1, 4, 4), batch_size=2)
    np.testing.assert_allclose(confidence, torch.tensor(4.0).sigmoid(), rtol=1e-6)


class MeanEncoder(torch.nn.Module):
    """Coarse grey values as embeddings."""

    def forward(self, images: torch.Tensor) -> object:
        values = torch.nn.functional.adaptive_avg_pool2d(images, 6).flatten(1)[:, :, None, None]
        return type("Output", (), {"image_embeddings": values})()


def sureness(images: torch.Tensor) -> torch.Tensor:
    """Logits whose confidence grows with the image's first pixel."""
    return torch.stack([images[:, 0] * 0 + images[:, 0, :1, :1] * 8, images[:, 0] * 0], 1)


def slices(images: torch.Tensor, cases: list[str]) -> SliceDataset:
    """One slice per case."""
    data = [{"case": case, "index": index} for index, case in enumerate(cases)]
    return SliceDataset(data, lambda item: {"image": images[item["index"]][..., None]}, keys=["image"])


@pytest.fixture
def task(make_task: Callable[..., Task]) -> Task:
    return make_task(image_size=(SIDE, SIDE))


@pytest.fixture
def transfer_set(tmp_path: Path, task: Task) -> Path:
    """Six images: a copy of training image 2, a dark corner, and four others."""
    torch.manual_seed(0)
    unet: UNet2DModel = build_unet(task.image_size, 1, (8, 8), patch_size=4)
    scheduler = build_noise_scheduler()
    assert isinstance(scheduler, DDPMScheduler)
    path = write_transfer_set(
        tmp_path / "set", ImageSampler(unet, scheduler, (1, *task.image_size), 2, 1), number=6, task_hash=task.hash
    )
    content = json.loads(path.read_text())
    cells = (torch.rand(6, 1, 6, 6, generator=torch.Generator().manual_seed(7)) > 0.5).float()
    images = torch.nn.functional.interpolate(cells, task.image_size)  # like no training image
    images[:, :, 0, 0] = 0.9
    images[0] = blobs(8, 8)[2].flip(-1)
    images[0, :, 0, 0] = 0.9
    images[1, :, 0, 0] = 0.0
    for image, entry in zip(images, content["unlabeled"], strict=True):
        file = path.parent / entry["image"]
        Image.fromarray((image[0] * 255).round().byte().numpy()).save(file)
        entry["sha256"] = file_sha256(file)
    path.write_text(json.dumps(content))
    return path


def check(
    transfer_set: Path, task: Task, output: Path, teacher: Callable[..., torch.Tensor] | None = sureness
) -> Gates:
    training, validation = blobs(8, 8), blobs(6, 9)
    validation[:, :, 0, 0] = torch.linspace(0.4, 0.9, 6)[:, None]
    training = torch.cat([training, torch.zeros(2, 1, SIDE, SIDE)])
    return check_transfer_set(
        transfer_set.parent,
        output,
        task,
        slices(training, ["a", "a", "b", "b", "c", "c", "d", "d", "a", "b"]),
        slices(validation, ["v", "v", "v", "w", "w", "w"]),
        GateEncoder("mean", MeanEncoder(), "cpu"),
        teacher,
    )


def test_copies_and_unsure_images_are_rejected_with_reasons(tmp_path: Path, transfer_set: Path, task: Task) -> None:
    gates = check(transfer_set, task, tmp_path / "gates")
    assert gates.counts == {"sampled": 6, "accepted": 4, "near_copies": 1, "low_confidence": 1}
    listed = json.loads(transfer_set.read_text())
    assert {entry["seed"]: entry["reasons"] for entry in listed["rejected"]} == {
        0: ["near_copy"],
        1: ["low_confidence"],
    }
    nearest = listed["rejected"][0]["nearest_training"]["pixels"]
    assert nearest["case"] == "b" and nearest["slice"] == 0 and nearest["distance"] < 0.05
    assert [entry["seed"] for entry in load_transfer_set(transfer_set, task.hash)] == [2, 3, 4, 5]
    # Blank training slices of two patients would be "near" each other at any threshold.
    assert len(gates.pixels.real) == 8 and gates.pixels.threshold > 0.01
    assert gates.content() == json.loads((tmp_path / "gates/gates.json").read_text())
    assert read_gates(tmp_path / "gates").content() == gates.content()
    with Image.open(tmp_path / "gates/contact_sheet.png") as sheet:
        assert sheet.size == (8 * SIDE, 7 * (SIDE + 16))


def test_run_again_it_starts_from_all_images(tmp_path: Path, transfer_set: Path, task: Task) -> None:
    first = check(transfer_set, task, tmp_path / "gates")
    before = transfer_set.read_bytes()
    assert check(transfer_set, task, tmp_path / "gates") == first
    assert transfer_set.read_bytes() == before


def test_without_a_teacher_confidence_is_not_computed(tmp_path: Path, transfer_set: Path, task: Task) -> None:
    gates = check(transfer_set, task, tmp_path / "gates", teacher=None)
    assert gates.confidence is read_gates(tmp_path / "gates").confidence is None
    assert gates.counts["accepted"] == 5
    assert load_transfer_set(transfer_set, task.hash)[0]["teacher_confidence"] is None
    assert gate_teacher(task, None) is None


def test_too_few_real_images_are_refused(tmp_path: Path, transfer_set: Path, task: Task) -> None:
    encoder = GateEncoder("mean", MeanEncoder(), "cpu")
    before = transfer_set.read_bytes()
    for training in (slices(blobs(0, 0), []), slices(torch.zeros(3, 1, SIDE, SIDE), ["a", "b", "c"])):
        with pytest.raises(ValueError, match=r"found none; see its sections|at least two real images"):
            check_transfer_set(transfer_set.parent, tmp_path / "gates", task, training, training, encoder)
    one_patient = slices(blobs(3, 0), ["a", "a", "a"])
    with pytest.raises(ValueError, match="at least two patients"):
        check_transfer_set(transfer_set.parent, tmp_path / "gates", task, one_patient, one_patient, encoder)
    assert transfer_set.read_bytes() == before


def test_a_named_encoder_gives_features(make_task: Callable[..., Task]) -> None:
    encoder = gate_encoder(make_task(image_size=(32, 32)), None, "sam_demo", None)
    features = encoder.features(blobs(3, 0, 32), batch_size=2)
    assert features.shape[0] == 3 and features.std(0).max() > 0
    interval = spread([1.0, 2.0, 3.0])
    assert (interval.low, interval.mean, interval.high) == pytest.approx((1.05, 2.0, 2.95))

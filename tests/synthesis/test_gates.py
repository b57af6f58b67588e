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
from tskd_monai.data.transfer_set import load_transfer_set, load_used_images, set_verdict, used_transfer_set
from tskd_monai.files.checksum import file_sha256
from tskd_monai.synthesis.compared_images import images_sha256
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
from tskd_monai.synthesis.realism import kernel_distances, pair_similarities, patient_subsets, sharpness, spread
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
    cells = (torch.rand(6, 1, 6, 6, generator=torch.Generator().manual_seed(7)) > 0.5).float()
    images = torch.nn.functional.interpolate(cells, task.image_size)  # like no training image
    images[:, :, 0, 0] = 0.9
    images[0] = blobs(8, 8)[2].flip(-1)
    images[0, :, 0, 0] = 0.9
    images[1, :, 0, 0] = 0.0
    return write_set(tmp_path / "set", task, images)


def write_set(folder: Path, task: Task, images: torch.Tensor) -> Path:
    """Writes a transfer set of these images (N, 1, H, W) and returns the path of its list."""
    torch.manual_seed(0)
    unet: UNet2DModel = build_unet(task.image_size, 1, (8, 8), patch_size=4)
    scheduler = build_noise_scheduler()
    assert isinstance(scheduler, DDPMScheduler)
    sampler = ImageSampler(unet, scheduler, (1, *task.image_size), 16, 1)
    path = write_transfer_set(folder, sampler, number=len(images), task_hash=task.hash)
    content = json.loads(path.read_text())
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


def test_near_copies_among_variations_are_marked_and_kept(tmp_path: Path, transfer_set: Path, task: Task) -> None:
    content = json.loads(transfer_set.read_text())
    real = blobs(8, 8)
    content["condition"] = {"kind": "variation", "strength": 0.4, "sources_sha256": images_sha256(real)}
    for entry in content["unlabeled"]:
        entry["condition"] = {"source_slice": 2, "strength": 0.4}
    transfer_set.write_text(json.dumps(content))
    gates = check(transfer_set, task, tmp_path / "gates")
    assert gates.derived and read_gates(tmp_path / "gates").derived
    assert gates.counts == {"sampled": 6, "accepted": 5, "near_copies": 1, "low_confidence": 1}
    assert gates.verdict is not None
    assert "derivatives of patients' images" in gates.verdict.sentence
    assert "1 of 6 are marked as near copies" in gates.verdict.sentence
    entries = load_transfer_set(transfer_set, task.hash, rejected=True)
    assert [entry["near_copy"] for entry in entries] == [True, *[False] * 5]
    assert entries[0]["reasons"] == [] and entries[0]["nearest_training"]["pixels"]["source_slice"] == 2
    assert all("case" not in entry["nearest_training"][space] for entry in entries for space in ("pixels", "features"))
    with Image.open(tmp_path / "gates/contact_sheet.png") as sheet:
        assert sheet.size == (8 * SIDE, 9 * (SIDE + 16))
        top = 2 * 16 + SIDE  # below the title of the second row
        source = np.asarray(sheet.convert("L").crop((0, top, SIDE, top + SIDE)))
    np.testing.assert_array_equal(source, (real[2, 0] * 255).round().byte().numpy())


def test_many_near_copies_do_not_fail_variations(tmp_path: Path, task: Task) -> None:
    images = blobs(24, 10)
    path = write_set(tmp_path / "set", task, torch.cat([images[:16], blobs(40, 8)[:8]]))
    synthetic = judged_set(path, tmp_path, task).verdict
    assert synthetic is not None and not synthetic.passed
    content = json.loads(path.read_text())
    content["condition"] = {"kind": "variation", "strength": 0.2, "sources_sha256": "0" * 64}
    path.write_text(json.dumps(content))
    gates = judged_set(path, tmp_path, task)
    assert gates.verdict is not None and gates.verdict.passed, gates.verdict
    assert gates.counts["near_copies"] > 0.25 * gates.counts["accepted"]


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


def judged(folder: Path, task: Task, images: torch.Tensor, **options: bool) -> tuple[Path, Gates]:
    """Writes and checks a set of images."""
    path = write_set(folder / "set", task, images)
    return path, judged_set(path, folder, task, **options)


def judged_set(path: Path, folder: Path, task: Task, **options: bool) -> Gates:
    """Checks a set against eight training and four validation patients of five images each."""
    training, validation = (
        slices(blobs(5 * patients, seed), [f"{seed}.{index % patients}" for index in range(5 * patients)])
        for patients, seed in ((8, 8), (4, 9))
    )
    encoder = GateEncoder("mean", MeanEncoder(), "cpu")
    return check_transfer_set(path.parent, folder / "gates", task, training, validation, encoder, **options)


def test_real_images_of_other_patients_pass_and_are_used(tmp_path: Path, task: Task) -> None:
    path, gates = judged(tmp_path, task, blobs(24, 10))
    assert gates.verdict is not None and gates.verdict.passed, gates.verdict
    assert gates.kid_subset_size == 10
    assert set_verdict(path) == gates.verdict == read_gates(tmp_path / "gates").verdict
    assert used_transfer_set(path.parent) == path.parent
    assert load_used_images(path, task.hash) == load_transfer_set(path, task.hash)


@pytest.mark.parametrize("kind", ["blurred", "noisy", "resemble one another", "near copies", "kernel distance"])
def test_a_failed_set_is_left_out_unless_requested(
    tmp_path: Path, task: Task, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    images = blobs(24, 10)
    changed = {
        "blurred": torch.nn.functional.avg_pool2d(images, 9, 1, 4, count_include_pad=False),
        "noisy": (images + 0.2 * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1),
        "resemble one another": (images[:1] + 0.02 * (images - 0.5)).clamp(0, 1),
        "near copies": torch.cat([images[:16], blobs(40, 8)[:8]]),
        "kernel distance": images**4,
    }[kind]
    path, gates = judged(tmp_path, task, changed)
    assert gates.verdict is not None and not gates.verdict.passed
    assert kind in gates.verdict.reason.lower()
    assert used_transfer_set(path) is None
    assert load_used_images(path, task.hash) == []
    assert caplog.messages.count(gates.verdict.sentence) == 1
    with pytest.raises(ValueError, match="Expected a transfer set of task"):
        load_used_images(path, "0" * 64)
    path, gates = judged(tmp_path / "again", task, changed, use_failed=True)
    assert used_transfer_set(path) == path and load_used_images(path, task.hash)


def test_a_word_in_place_of_a_switch_is_refused(tmp_path: Path, task: Task) -> None:
    with pytest.raises(TypeError, match="--use_failed True or False, found the word 'true'"):
        judged(tmp_path, task, blobs(4, 10), use_failed="true")  # type: ignore[arg-type]


def test_a_subset_is_drawn_from_few_patients() -> None:
    patients = [0] * 5 + [1] * 5 + [2] * 2
    subsets = patient_subsets(patients, 1, 4, subsets=50)
    assert all(len(set(drawn)) == 4 for drawn in subsets)
    from_patients = [{patients[index] for index in drawn} for drawn in subsets]
    assert {0} in from_patients and {1} in from_patients
    assert all(len(chosen) == 1 or 2 in chosen for chosen in from_patients)  # patient 2 has too few images
    assert {len({patients[index] for index in drawn}) for drawn in patient_subsets(patients, 3, 12)} == {3}
    again = patient_subsets(patients, 1, 4, subsets=50)
    assert all(np.array_equal(first, second) for first, second in zip(subsets, again, strict=True))


def test_sharpness_of_a_ramp_is_that_of_its_formula() -> None:
    side = 16
    ramp = torch.linspace(0, 1, side).expand(2, 1, side, side).clone()
    ramp[1] *= 0.3  # contrast does not matter
    spacing = 1 / (side - 1)
    np.testing.assert_allclose(sharpness(ramp), spacing / float(ramp[0].std()), rtol=1e-4)
    assert sharpness(torch.zeros(1, 1, 8, 8))[0] == 0


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

"""Teacher targets on disk: their precision, their names, when the teacher runs, and damaged files."""

from __future__ import annotations

import logging
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tskd_monai.data.task import Task
from tskd_monai.distillation.target_cache import (
    LEVELS,
    QuantisedTarget,
    TargetCache,
    load_or_compute_targets,
    quantise,
)
from tskd_monai.networks.teacher import state_sha256

MakeTask = Callable[..., Task]


class CountingTeacher(nn.Module):
    """A teacher of three classes that counts the images it is run on, and can stop after some."""

    embed_dim = 4

    def __init__(self, classes: bool = True, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.head, self.neck, self.classes = nn.Conv2d(1, 3, 1), nn.Conv2d(1, 4, 4, stride=4), classes
        self.norm = nn.BatchNorm2d(3)  # has a buffer without dimensions
        self.seen, self.limit = 0, 100
        self.requires_grad_(False).eval()

    def forward_with_embeddings(self, images: Tensor) -> tuple[Tensor | None, Tensor]:
        if self.seen + len(images) > self.limit:
            raise KeyboardInterrupt
        self.seen += len(images)
        return self.norm(self.head(images)) if self.classes else None, self.neck(images)


@pytest.fixture
def images() -> list[Tensor]:
    return list(torch.rand(5, 1, 8, 12, generator=torch.Generator().manual_seed(0)))


@pytest.fixture
def teacher() -> CountingTeacher:
    return CountingTeacher()


@pytest.fixture
def cache(tmp_path: Path, teacher: CountingTeacher, make_task: MakeTask) -> TargetCache:
    return TargetCache(tmp_path / "cache", teacher, make_task())


def probabilities(target: QuantisedTarget) -> Tensor:
    return (target.foreground.float() / LEVELS) ** 2


def same(first: QuantisedTarget, second: QuantisedTarget) -> bool:
    return all(one.dtype == two.dtype and torch.equal(one, two) for one, two in zip(first, second, strict=True))


# Precision.


def test_targets_have_the_documented_shapes_and_types(teacher: CountingTeacher, images: list[Tensor]) -> None:
    targets = quantise(*teacher.forward_with_embeddings(torch.stack(images)))
    assert len(targets) == 5
    assert (targets[0].foreground.shape, targets[0].foreground.dtype) == ((2, 8, 12), torch.uint8)
    assert (targets[0].features.shape, targets[0].features.dtype) == ((4, 2, 3), torch.float16)


def test_probabilities_are_kept_to_half_a_step_of_their_roots() -> None:
    share = torch.linspace(0, 1, 4001)
    logits = torch.stack([1 - share, share]).clamp_min(1e-12).log()[None, :, None]
    found = probabilities(quantise(logits, torch.zeros(1, 1, 1, 1))[0])[0, 0]
    bound = share.sqrt() / LEVELS + (0.5 / LEVELS) ** 2 + 1e-6
    assert bool(((found - share).abs() <= bound).all())
    assert (found - share).abs().max() > 0.001  # the bound is not trivial
    assert found[0] == 0 and found[-1] == 1


def test_small_probabilities_keep_their_order_of_magnitude() -> None:
    share = torch.tensor([1e-4, 1e-3, 1e-2])
    logits = torch.stack([1 - share, share]).log()[None, :, None]
    found = probabilities(quantise(logits, torch.zeros(1, 1, 1, 1))[0])[0, 0]
    torch.testing.assert_close(found, share, rtol=0.5, atol=0)


def test_features_are_kept_to_float16() -> None:
    features = 30 * torch.randn(1, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    found = quantise(None, features)[0].features.float()
    torch.testing.assert_close(found, features[0], rtol=2**-10, atol=1e-4)


def test_a_teacher_without_classes_gives_no_map(images: list[Tensor]) -> None:
    target = quantise(*CountingTeacher(classes=False).forward_with_embeddings(torch.stack(images)))[0]
    assert target.foreground.shape[0] == 0 and target.features.shape == (4, 2, 3)


def test_what_is_written_is_read_back(cache: TargetCache, teacher: CountingTeacher, images: list[Tensor]) -> None:
    target = quantise(*teacher.forward_with_embeddings(images[0][None]))[0]
    assert cache.read(images[0]) is None
    cache.write(images[0], target)
    found = cache.read(images[0])
    assert found is not None and same(found, target)
    assert [path.name for path in cache.folder.iterdir()] == [cache.path(images[0]).name]


# Names.


def test_a_name_is_of_teacher_task_and_image(tmp_path: Path, images: list[Tensor], make_task: MakeTask) -> None:
    image, task = images[0], make_task()
    changed = image.clone()
    changed[0, 0, 0] += 1e-6
    paths = [
        TargetCache(tmp_path, CountingTeacher(), task).path(image),
        TargetCache(tmp_path, CountingTeacher(seed=1), task).path(image),
        TargetCache(tmp_path, CountingTeacher(), make_task(pixdim=(2.0, 2.0))).path(image),
        TargetCache(tmp_path, CountingTeacher(), task).path(changed),
        TargetCache(tmp_path, CountingTeacher(), task).path(image.reshape(1, 12, 8)),
        TargetCache(tmp_path, CountingTeacher(), task).path(image.double()),
    ]
    assert len(set(paths)) == len(paths)
    assert TargetCache(tmp_path, CountingTeacher(), task).path(image.clone()) == paths[0]


def test_every_weight_and_buffer_is_hashed(teacher: CountingTeacher) -> None:
    before = state_sha256(teacher)
    assert state_sha256(CountingTeacher()) == before
    teacher.norm.num_batches_tracked += 1
    counted = state_sha256(teacher)
    teacher.head.weight[0, 0, 0, 0] += 1e-4
    assert len({before, counted, state_sha256(teacher)}) == 3


def test_a_file_instead_of_the_folder_is_refused(tmp_path: Path, teacher: CountingTeacher, make_task: MakeTask) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(
        ValueError, match=r"Expected a folder at --cache_dir .*cache, found a file; choose another folder"
    ):
        TargetCache(tmp_path / "cache", teacher, make_task())


# When the teacher runs.


def test_the_teacher_runs_once(cache: TargetCache, teacher: CountingTeacher, images: list[Tensor]) -> None:
    first = load_or_compute_targets(teacher, images, cache, batch_size=2)
    again = load_or_compute_targets(teacher, images, cache, batch_size=2)
    assert teacher.seen == 5
    expected = quantise(*teacher.forward_with_embeddings(torch.stack(images)))
    for found in (first, again):
        assert all(same(one, other) for one, other in zip(found, expected, strict=True))


def test_an_interrupted_run_resumes(cache: TargetCache, teacher: CountingTeacher, images: list[Tensor]) -> None:
    teacher.limit = 4
    with pytest.raises(KeyboardInterrupt):
        load_or_compute_targets(teacher, images, cache, batch_size=2)
    assert teacher.seen == 4 and len(list(cache.folder.iterdir())) == 4
    teacher.limit = 100
    assert len(load_or_compute_targets(teacher, images, cache, batch_size=2)) == 5
    assert teacher.seen == 5


def test_the_teacher_does_not_change(cache: TargetCache, teacher: CountingTeacher, images: list[Tensor]) -> None:
    before = state_sha256(teacher)
    load_or_compute_targets(teacher, images, cache)
    assert state_sha256(teacher) == before


def test_number_and_size_are_logged(
    cache: TargetCache, teacher: CountingTeacher, images: list[Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    large = [*images, torch.rand(1, 256, 256, generator=torch.Generator().manual_seed(2))]
    load_or_compute_targets(teacher, images[:2], cache)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        load_or_compute_targets(teacher, large, cache, batch_size=1)
    megabytes = sum(path.stat().st_size for path in cache.folder.iterdir()) / 1e6
    assert megabytes > 0.05
    assert caplog.messages == [f"Teacher targets: 6 images, 4 of them computed now; {megabytes:.1f} MB on disk."]


# Damage.


def _flip(content: bytes, position: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 0xFF]) + content[position + 1 :]


def _array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def _zip_of_pickles(path: Path) -> None:
    np.savez(path, foreground=np.array([{"a": 1}], dtype=object), features=np.zeros(1))


def _claim_much(path: Path) -> None:
    """Packs a header that states 10¹² bytes, with a valid checksum."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    whole = members["foreground.npy"]
    claimed = whole.replace(b"(2, 8, 12), }" + b" " * 12, b"(10000, 10000, 10000), }" + b" ")
    assert claimed != whole and len(claimed) == len(whole)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**members, "foreground.npy": claimed}.items():
            archive.writestr(name, content)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-40]),
    "empty": lambda path: path.write_bytes(b""),
    "flipped in the data": lambda path: path.write_bytes(_flip(path.read_bytes(), 120)),
    "flipped in the compression": lambda path: path.write_bytes(
        _flip(path.read_bytes(), path.read_bytes().index(b"PK\x01\x02") + 10)
    ),
    "encrypted, it says": lambda path: path.write_bytes(
        _flip(path.read_bytes(), path.read_bytes().index(b"PK\x01\x02") + 8)
    ),
    "a pickle": lambda path: path.write_bytes(pickle.dumps({"foreground": 1})),
    "pickles inside": _zip_of_pickles,
    "one array": _array,
    "arrays of another type": lambda path: np.savez(
        path, foreground=np.zeros((2, 8, 12)), features=np.zeros((4, 2, 3))
    ),
    "arrays of other axes": lambda path: np.savez(
        path, foreground=np.zeros(3, np.uint8), features=np.zeros(1, np.half)
    ),
    "a lying shape": _claim_much,
    "an array too few": lambda path: np.savez(path, features=np.zeros(1)),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_target_is_computed_again(
    cache: TargetCache,
    teacher: CountingTeacher,
    images: list[Tensor],
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], object],
) -> None:
    whole = load_or_compute_targets(teacher, images, cache)
    path = cache.path(images[1])
    damage(path)
    again = load_or_compute_targets(teacher, images, cache)
    assert teacher.seen == 6
    assert same(again[1], whole[1])
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1 and warnings[0].startswith(f"{path.name} is damaged (")
    assert warnings[0].endswith("; the teacher is run again.")
    assert load_or_compute_targets(teacher, images, cache) and teacher.seen == 6  # it was replaced


def test_no_flipped_byte_gives_another_target(
    cache: TargetCache, teacher: CountingTeacher, images: list[Tensor]
) -> None:
    whole = load_or_compute_targets(teacher, images[:1], cache)[0]
    path = cache.path(images[0])
    content = path.read_bytes()
    damaged = 0
    for position in range(0, len(content), 3):
        path.write_bytes(_flip(content, position))
        found = cache.read(images[0])
        damaged += found is None
        assert found is None or same(found, whole)
    assert damaged > 100


def test_a_disk_that_does_not_keep_them_is_named(
    cache: TargetCache, teacher: CountingTeacher, images: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TargetCache, "write", lambda self, image, target: None)
    with pytest.raises(RuntimeError, match=r"Expected the targets just written to .*cache, found some damaged; check"):
        load_or_compute_targets(teacher, images, cache)

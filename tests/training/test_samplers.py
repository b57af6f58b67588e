from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import pytest
import torch

from tskd_monai.data.slices import SliceDataset
from tskd_monai.data.task import Task
from tskd_monai.training import samplers
from tskd_monai.training.samplers import SliceSampler, checked_classes, foreground_sampler

PRESENT: list[set[int]] = [set()] * 90 + [{1}] * 9 + [{2}]


def draws_of_rank(monkeypatch: pytest.MonkeyPatch, rank: int, count: int, sampler: SliceSampler) -> list[int]:
    monkeypatch.setattr(samplers.idist, "get_rank", lambda: rank)
    monkeypatch.setattr(samplers.idist, "get_world_size", lambda: count)
    return list(sampler)


def test_an_epoch_has_the_requested_number_of_draws() -> None:
    sampler = SliceSampler(5, 12)
    assert len(sampler) == 12
    drawn = list(sampler)
    assert len(drawn) == 12
    assert all(isinstance(index, int) and 0 <= index < 5 for index in drawn)


def test_each_slice_comes_once_before_any_comes_again() -> None:
    drawn = list(SliceSampler(7, 17))
    assert sorted(drawn[:7]) == sorted(drawn[7:14]) == list(range(7))
    assert len(set(drawn[14:])) == 3
    assert drawn[:7] != drawn[7:14] or drawn[:7] != sorted(drawn[:7])


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_epoch_and_seed_decide_the_draws(share: float) -> None:
    first, second = (SliceSampler(100, 50, PRESENT, share, seed=3) for _ in range(2))
    assert list(first) == list(first) == list(second)
    second.set_epoch(1)
    other_epoch = list(second)
    assert list(first) != other_epoch
    first.set_epoch(1)
    assert list(first) == other_epoch
    assert list(SliceSampler(100, 50, PRESENT, share, seed=4)) != list(SliceSampler(100, 50, PRESENT, share, seed=3))


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_foreground_fraction_is_kept_and_classes_are_alike(share: float) -> None:
    number = 20_000
    counts = Counter(SliceSampler(100, number, PRESENT, share))
    any_slice = (1 - share) / 100
    common, rare = sum(counts[index] for index in range(90, 99)), counts[99]
    # Six standard deviations of a binomial proportion are at most 0.0213.
    assert common / number == pytest.approx(share / 2 + 9 * any_slice, abs=0.022)
    assert rare / number == pytest.approx(share / 2 + any_slice, abs=0.022)
    assert sum(counts[index] for index in range(90)) / number == pytest.approx(90 * any_slice, abs=0.022)


def test_a_slice_with_two_classes_is_drawn_for_both() -> None:
    counts = Counter(SliceSampler(3, 20_000, [set(), {1}, {1, 2}], 1.0))
    assert counts[0] == 0
    assert counts[2] / 20_000 == pytest.approx(0.75, abs=0.022)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_processes_partition_one_draw(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    whole = draws_of_rank(monkeypatch, 0, 1, SliceSampler(100, 40, PRESENT, share))
    parts = [draws_of_rank(monkeypatch, rank, 2, SliceSampler(100, 20, PRESENT, share)) for rank in (0, 1)]
    assert [len(part) for part in parts] == [20, 20]
    assert [index for pair in zip(*parts, strict=True) for index in pair] == whole


def test_two_processes_see_each_slice_once(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [draws_of_rank(monkeypatch, rank, 2, SliceSampler(40, 20)) for rank in (0, 1)]
    assert sorted(parts[0] + parts[1]) == list(range(40))


def test_empty_dataset_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one training slice, found none"):
        SliceSampler(0, 5)


@pytest.mark.parametrize("present", [None, [set(), set()]])
def test_foreground_that_no_slice_has_is_refused(present: list[set[int]] | None) -> None:
    with pytest.raises(ValueError, match="Expected foreground on some training slice"):
        SliceSampler(2, 5, present, 0.5)


def labelled(*slices: Sequence[int]) -> SliceDataset:
    """Return a dataset of which each slice has the given classes."""
    label = torch.tensor([[*classes] + [0] * (4 - len(classes)) for classes in slices]).T[None, :, None]
    return SliceDataset([{"case": "a"}], lambda entry: {"image": label.float(), "label": label})


def test_classes_are_listed_when_the_planned_ones_are_there(make_task: Callable[..., Task]) -> None:
    dataset = labelled((1,), (), (2, 1))
    assert checked_classes(dataset, make_task()) == [{1}, set(), {1, 2}]
    partly = make_task(class_frequencies=(0.9, 0.1, 0.0))  # planned without a voxel of the spleen
    assert checked_classes(labelled((1,), ()), partly) == [{1}, set()]


@pytest.mark.parametrize("frequencies", [(), (0.9, 0.05, 0.05)])
def test_a_planned_class_that_is_nowhere_is_refused(
    make_task: Callable[..., Task], frequencies: tuple[float, ...]
) -> None:
    message = r"Expected the 3 classes of the task tiny .*, found no voxel of 4 \(spleen\)\. Give the --task"
    with pytest.raises(ValueError, match=message):
        checked_classes(labelled((1,), ()), make_task(class_frequencies=frequencies))


def test_the_sampler_of_labelled_slices_oversamples_foreground_as_planned(make_task: Callable[..., Task]) -> None:
    dataset = labelled((1,), (), (2, 1))
    task = make_task(foreground_oversampling=0.5)
    planned, plain = foreground_sampler(dataset, task, 40, seed=3), SliceSampler(3, 40, [{1}, set(), {1, 2}], 0.5, 3)
    assert list(planned) == list(plain)
    assert list(foreground_sampler(dataset, task, 40, 3, foreground_fraction=0.0)) == list(SliceSampler(3, 40, seed=3))
    with pytest.raises(ValueError, match=r"found no voxel of 4 \(spleen\)"):
        foreground_sampler(labelled((1,)), task, 40)
    assert len(foreground_sampler(labelled((1,)), task, 40, absent="warn")) == 40

"""Shards of a run: each name belongs to exactly one, and each process learns which is its own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tskd_monai.files.shard import Shard, parse_shard


@given(name=st.text(), count=st.integers(1, 40))
def test_a_name_belongs_to_exactly_one_shard(name: str, count: int) -> None:
    assert sum(Shard(number, count).owns(name) for number in range(1, count + 1)) == 1


def test_shards_are_of_about_the_same_size() -> None:
    names = [f"case{index:05d}" for index in range(8000)]
    sizes = [sum(Shard(number, 8).owns(name) for name in names) for number in range(1, 9)]
    assert min(sizes) > 900 and max(sizes) < 1100


def test_an_option_is_a_shard() -> None:
    shard = parse_shard("3/8")
    assert (str(shard), shard and shard.label) == ("3/8", "3-of-8")
    assert parse_shard(None) is None


@pytest.mark.parametrize("text", ["0/8", "9/8", "3", "3/0", "a/b", "3/8/9", "", "03/8"])
def test_another_option_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="Expected --shard K/N with K from 1 to N, or auto, found "):
        parse_shard(text)


TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2"}
ARRAY = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "1"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (TORCHRUN, "2/2"),
        (ARRAY, "3/4"),
        ({**ARRAY, "SLURM_ARRAY_TASK_MIN": "0"}, "4/4"),
        ({**ARRAY, "SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_STEP": "2"}, "3/4"),
        ({**ARRAY, **TORCHRUN}, "6/8"),
    ],
)
def test_auto_is_the_shard_that_the_scheduler_assigns(environment: dict[str, str], expected: str) -> None:
    assert str(parse_shard("auto", environment)) == expected


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "found neither; give --shard as 3/8"),
        ({"WORLD_SIZE": "2"}, "Expected whole numbers in RANK and WORLD_SIZE, found None and 2"),
        ({**ARRAY, "SLURM_ARRAY_TASK_COUNT": "2"}, "Expected a job array without gaps"),
        ({**ARRAY, "SLURM_ARRAY_TASK_STEP": "4"}, "Expected a job array without gaps"),
    ],
)
def test_auto_without_an_assigned_shard_is_refused(environment: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_shard("auto", environment)

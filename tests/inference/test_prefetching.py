from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from tskd_monai.inference.overlapped_io import PrefetchingLoader


class Numbers(Dataset[torch.Tensor]):
    """Ten numbers; reading one fails, and each reading is noted."""

    def __init__(self, failing: int | None = None) -> None:
        self.failing = failing
        self.read: list[int] = []
        self.second = threading.Event()

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> Any:
        if index == self.failing:
            raise ValueError(f"damaged: {index}")
        self.read.append(index)
        if index == 1:
            self.second.set()
        return torch.tensor(index)


def test_batches_come_in_order_and_again() -> None:
    loader = PrefetchingLoader(Numbers(), batch_size=3)
    for _ in range(2):
        assert [batch.tolist() for batch in loader] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]


def test_the_next_batch_is_read_while_one_is_worked_on() -> None:
    numbers = Numbers()
    batches = iter(PrefetchingLoader(numbers, batch_size=1))
    next(batches)
    assert numbers.second.wait(timeout=30)
    batches.close()  # type: ignore[attr-defined]
    assert numbers.read == [0, 1]


def test_an_error_comes_in_the_place_of_its_batch() -> None:
    found: list[int] = []
    batches = PrefetchingLoader(Numbers(failing=4), batch_size=1)
    with pytest.raises(ValueError, match="damaged: 4"):
        found.extend(int(batch) for batch in batches)
    assert found == [0, 1, 2, 3]

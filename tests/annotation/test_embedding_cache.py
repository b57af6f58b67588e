from __future__ import annotations

from pathlib import Path

import torch

from tskd_monai.annotation.embedding_cache import BoundedEmbeddings
from tskd_monai.distillation.refiner import EmbeddingCache


def counted(value: float, calls: list[float]) -> torch.Tensor:
    calls.append(value)
    return torch.full((2, 3, 4), value)


def test_the_oldest_leave_and_memory_stays_within_its_limit() -> None:
    size, calls = 2 * 3 * 4 * 2, []  # bytes in float16
    cache = BoundedEmbeddings(max_bytes=2 * size)
    for key in ("a", "b", "a", "c", "a", "b"):
        found = cache.get(key, lambda key=key: counted(ord(key), calls))
        assert found.unique().item() == ord(key) and cache.bytes_held <= 2 * size
    assert [chr(int(value)) for value in calls] == ["a", "b", "c", "b"]


def test_one_that_is_too_large_is_returned_and_not_held() -> None:
    cache = BoundedEmbeddings(max_bytes=10)
    assert cache.get("a", lambda: torch.ones(2, 3, 4)).shape == (2, 3, 4) and cache.bytes_held == 0


def test_what_left_the_memory_is_read_from_disk(tmp_path: Path) -> None:
    calls: list[float] = []
    files = EmbeddingCache(tmp_path / "embeddings", "model 64")
    for cache in (BoundedEmbeddings(0, files), BoundedEmbeddings(1e6, files)):
        assert torch.equal(cache.get("a", lambda: counted(5, calls)), torch.full((2, 3, 4), 5).half())
    assert calls == [5]

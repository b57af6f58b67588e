"""The next study is read while the network works on this one."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from monai.data import DataLoader


class PrefetchingLoader(DataLoader):
    """A `DataLoader` that a thread keeps one batch ahead of; with a study per batch, two studies are in memory.

    MONAI's `ThreadDataLoader` ends the loop without a word when reading fails; here the error is raised where the
    batch was to come. A worker process would copy each volume between processes.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Yields the batches in order.

        Raises:
            Exception: whatever reading a batch raised, in its place.
        """
        batches, end = iter(super().__iter__()), object()
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="reader") as reader:
            ahead = reader.submit(next, batches, end)
            while (batch := ahead.result()) is not end:
                ahead = reader.submit(next, batches, end)
                yield batch

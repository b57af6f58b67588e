"""Image embeddings in memory, up to a limit, and on disk if wanted."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable

from torch import Tensor

from tskd_monai.distillation.refiner import EmbeddingCache

logger = logging.getLogger(__name__)

MB = 1e6


class BoundedEmbeddings:
    """The embeddings used last, in float16; the oldest leave when the limit is reached.

    Args:
        max_bytes: largest sum of their sizes in memory; one that is larger is not kept.
        files: cache on disk, read for what has left the memory; None: none.
    """

    def __init__(self, max_bytes: float = 512 * MB, files: EmbeddingCache | None = None) -> None:
        self.max_bytes, self.files = max_bytes, files
        self._held: OrderedDict[str, Tensor] = OrderedDict()

    @property
    def bytes_held(self) -> int:
        """Sum of the sizes of the embeddings in memory."""
        return sum(embedding.nbytes for embedding in self._held.values())

    def get(self, key: str, embed: Callable[[], Tensor]) -> Tensor:
        """Returns the embedding (E, h, w), float16, of a key, computed if it is nowhere.

        Args:
            key: names image and slice.
            embed: computes it.
        """
        embedding = self._held.pop(key, None)
        if embedding is None and self.files is not None:
            embedding = self.files.read(key)
        if embedding is None:
            embedding = embed().half().cpu()
            if self.files is not None:
                self.files.write(key, embedding)
        self._held[key] = embedding
        while self.bytes_held > self.max_bytes:
            self._held.popitem(last=False)
        return embedding

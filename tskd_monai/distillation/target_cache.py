"""Teacher targets on disk, computed once for each image, independent of augmentation and number of epochs.

A file holds the probabilities of the foreground classes as `round(255 * sqrt(p))` in 8 bits, which resolves small
probabilities finely, and the features in float16. Its name is a hash of the teacher, the task and the image, so that
targets of different teachers, tasks or images are never confused.
"""

from __future__ import annotations

import hashlib
import io
import logging
import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ignite.distributed as idist
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from tskd_monai.data.task import Task
from tskd_monai.files.atomic import atomic_path
from tskd_monai.networks.teacher import TeacherNetwork, teacher_sha256

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
LEVELS = 255
MAX_TARGET_BYTES = 2**28  # unpacked: 20 classes and 256 features at 1/16 resolution, at 1024 x 1024 pixels, are 23 MB
ARRAYS: dict[str, np.dtype[Any]] = {"foreground": np.dtype(np.uint8), "features": np.dtype(np.float16)}


class QuantisedTarget(NamedTuple):
    """A teacher's prediction for one image.

    Attributes:
        foreground: square roots of the probabilities of classes 1 to K - 1 in steps of 1/255, (K - 1, H, W), uint8; no
            maps if the teacher predicts no classes.
        features: (E, h, w), float16.
    """

    foreground: Tensor
    features: Tensor


class TargetCache:
    """A folder of targets for one task, from one teacher or one set of sources.

    Args:
        folder: folder of the cache, created if missing.
        teacher: teacher, whose weights are part of every file's name; or the sha256 of other sources.
        task: task, whose hash is part of every file's name.

    Raises:
        ValueError: when the folder is a file.
    """

    def __init__(self, folder: str | Path, teacher: TeacherNetwork | str, task: Task) -> None:
        self.folder = Path(folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"Expected a folder at --cache_dir {folder}, found a file; choose another folder.")
        source = teacher if isinstance(teacher, str) else teacher_sha256(teacher)
        self.prefix = f"{FORMAT_VERSION} {source} {task.hash}"

    def path(self, image: Tensor) -> Path:
        """Returns the path of an image's target."""
        digest = hashlib.sha256(f"{self.prefix} {image.dtype} {tuple(image.shape)}".encode())
        digest.update(image.contiguous().numpy().tobytes())
        return self.folder / f"{digest.hexdigest()[:32]}.npz"

    def read(self, image: Tensor) -> QuantisedTarget | None:
        """Returns the target of an image; None if it is missing or damaged."""
        path = self.path(image)
        if not path.is_file():
            return None
        try:
            return read_target(path)
        except Exception as error:  # numpy, zipfile and zlib raise many types for damaged bytes
            logger.warning("%s is damaged (%s); the teacher is run again.", path.name, type(error).__name__)
            return None

    def write(self, image: Tensor, target: QuantisedTarget) -> None:
        """Writes the target of an image, atomically."""
        with atomic_path(self.path(image)) as temporary:
            np.savez_compressed(temporary, foreground=target.foreground.numpy(), features=target.features.numpy())


def read_target(path: Path) -> QuantisedTarget:
    """Returns the content of a file; array headers are validated before allocation.

    Raises:
        ValueError: when the arrays are not those of a target; numpy and zipfile raise other types.
    """
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        size = sum(member.file_size for member in archive.infolist())  # zip reads no more than the directory states
        if size > MAX_TARGET_BYTES:
            raise ValueError(f"expected at most {MAX_TARGET_BYTES} bytes, found {size}")
        for name, dtype in ARRAYS.items():
            content = archive.read(f"{name}.npy")
            shape, _, found = _array_header(content)
            if (found, len(shape)) != (dtype, 3) or math.prod(shape) * dtype.itemsize > len(content):
                raise ValueError(f"expected {name} of {dtype} along three axes, found {found} {shape}")
            arrays[name] = torch.from_numpy(np.load(io.BytesIO(content), allow_pickle=False))
    return QuantisedTarget(**arrays)


def _array_header(content: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Returns shape, order and type from the header of an array in numpy's format."""
    stream = io.BytesIO(content)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("expected numpy's format 1.0")
    return np.lib.format.read_array_header_1_0(stream)


def quantise(logits: Tensor | None, features: Tensor) -> list[QuantisedTarget]:
    """Returns the targets of a batch from logits (B, K, H, W), or None, and features (B, E, h, w)."""
    return quantise_probabilities(None if logits is None else F.softmax(logits.float(), dim=1), features)


def quantise_probabilities(probabilities: Tensor | None, features: Tensor) -> list[QuantisedTarget]:
    """Returns the targets of a batch from probabilities (B, K, H, W), or None, and features (B, E, h, w)."""
    if probabilities is None:
        roots = torch.zeros(len(features), 0, 1, 1, dtype=torch.uint8)
    else:
        roots = (LEVELS * probabilities[:, 1:].sqrt()).round().to(torch.uint8)
    return [QuantisedTarget(root, map_) for root, map_ in zip(roots.cpu(), features.cpu().half(), strict=True)]


@torch.no_grad()
def load_or_compute_targets(
    teacher: TeacherNetwork,
    images: Sequence[Tensor],
    cache: TargetCache,
    device: torch.device | str = "cpu",
    batch_size: int = 8,
) -> list[QuantisedTarget]:
    """Returns the teacher's target for each image, computing and caching those that the cache lacks.

    An interrupted run resumes with the missing ones. Each of several processes computes its own shard.

    Args:
        teacher: frozen teacher in evaluation mode, on `device`.
        images: (C, H, W), float32, preprocessed and not augmented.
        cache: cache to read and fill.
        device: device of the teacher.
        batch_size: images in one forward pass.

    Raises:
        RuntimeError: when targets that were just written cannot be read.
    """
    own = range(idist.get_rank(), len(images), idist.get_world_size())
    known = {index: cache.read(images[index]) for index in own}
    missing = [index for index, target in known.items() if target is None]
    starts = range(0, len(missing), batch_size)
    for start in tqdm(starts, desc="Running the teacher", unit="batch", disable=not missing):
        batch = missing[start : start + batch_size]
        stacked = torch.stack([images[index] for index in batch]).to(device)
        for index, target in zip(batch, quantise(*teacher.forward_with_embeddings(stacked)), strict=True):
            cache.write(images[index], target)
    idist.barrier()
    read = (known.get(index) or cache.read(image) for index, image in enumerate(images))
    kept = [target for target in read if target is not None]
    if len(kept) < len(images):
        raise RuntimeError(f"Expected the targets just written to {cache.folder}, found some damaged; check the disk.")
    _report(cache, images, len(missing))
    return kept


def _report(cache: TargetCache, images: Sequence[Tensor], computed: int) -> None:
    if idist.get_rank() == 0:
        megabytes = sum(path.stat().st_size for path in {cache.path(image) for image in images}) / 1e6
        line = "Teacher targets: %d images, %d of them computed now; %.1f MB on disk."
        logger.info(line, len(images), computed, megabytes)

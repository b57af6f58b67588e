"""Refinement of soft targets by a promptable model: boxes of the target's masks become its prompts.

For each foreground class of an image, the box of the largest component, widened by a margin, prompts a model of the SAM
family. Its mask replaces the target where the two agree, by the IoU of both masks; in between they are mixed. A box of
a poor mask gives a poor mask, and the two then agree little: the bounds decide.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from tskd_monai.files.atomic import atomic_path
from tskd_monai.files.json_files import is_a
from tskd_monai.networks.teacher import state_sha256

if TYPE_CHECKING:  # it imports transformers
    from tskd_monai.networks.promptable import PromptableSegmenter

logger = logging.getLogger(__name__)

PATCH = 16
GB = 1e9
DAMAGED = (OSError, ValueError, EOFError)
"""What numpy raises for a file that is not the array that was written."""


@dataclass(frozen=True)
class RefinerSettings:
    """Settings of the refinement.

    Attributes:
        margin: by how much a box is widened on each side, as a fraction of its width or height.
        iou_bounds: IoU of both masks below which the target is kept, and from which it is replaced.
        min_area: area of the largest component below which a class is not refined, pixels of the task's image.

    Raises:
        ValueError: when a value is out of range; names the option.
    """

    margin: float = 0.08
    iou_bounds: tuple[float, float] = (0.5, 0.75)
    min_area: int = 16

    def __post_init__(self) -> None:
        bounds = self.iou_bounds
        fits = isinstance(bounds, (list, tuple)) and len(bounds) == 2 and all(is_a(bound, float) for bound in bounds)
        if not fits or not 0 <= bounds[0] < bounds[1] <= 1:
            raise ValueError(f"Expected --iou_bounds with two rising numbers from 0 to 1, found {bounds!r}.")
        if not is_a(self.margin, float) or not 0 <= self.margin <= 1:
            raise ValueError(f"Expected --margin from 0 to 1, a fraction of the box, found {self.margin!r}.")
        if not is_a(self.min_area, int) or self.min_area < 1:
            raise ValueError(f"Expected --min_area of at least 1 pixel, found {self.min_area!r}.")
        object.__setattr__(self, "iou_bounds", (float(bounds[0]), float(bounds[1])))


class Agreement(NamedTuple):
    """How well the masks of a class agree, and what follows.

    Attributes:
        iou: IoU of the refined mask and the target's, from 0 to 1.
        weight: weight of the refined mask, from 0 (target kept) to 1 (replaced).
    """

    iou: float
    weight: float


class Proposal(NamedTuple):
    """Refined masks of an image, before they are weighed.

    Attributes:
        classes: prompted classes, ascending.
        probabilities: refined probability of each (N, H, W).
    """

    classes: tuple[int, ...]
    probabilities: Tensor


class EmbeddingCache:
    """Image embeddings on disk in float16, one file for an image and a model.

    Args:
        folder: folder of the cache, created with the first file.
        prefix: the model and its input size, part of every file's name.
    """

    def __init__(self, folder: str | Path, prefix: str) -> None:
        self.folder, self.prefix = Path(folder), prefix
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"Expected a folder at --embedding_dir {folder}, found a file; choose another folder.")

    def path(self, image_key: str) -> Path:
        """Returns the path of the embedding of an image with this key."""
        return self.folder / f"{hashlib.sha256(f'{self.prefix} {image_key}'.encode()).hexdigest()[:32]}.npy"

    def read(self, image_key: str) -> Tensor | None:
        """Returns the embedding (E, h, w), float16; None if it is missing or damaged."""
        path = self.path(image_key)
        if not path.is_file():
            return None
        try:
            found = np.load(path, allow_pickle=False)
            if found.dtype != np.float16 or found.ndim != 3:
                raise ValueError(f"found {found.dtype} {found.shape}")
        except DAMAGED as error:
            logger.warning("%s is damaged (%s); the image is embedded again.", path.name, type(error).__name__)
            return None
        return torch.from_numpy(found)

    def write(self, image_key: str, embedding: Tensor) -> None:
        """Writes the embedding of an image, atomically."""
        with atomic_path(self.path(image_key)) as temporary, temporary.open("wb") as file:
            np.save(file, embedding.numpy())

    def check_room(self, images: int, image_size: tuple[int, int], embedding: Tensor) -> None:
        """Logs how large the cache becomes at most, before it is filled.

        Args:
            images: number of images.
            image_size: rows and columns of the model's input.
            embedding: embedding of one of them.

        Raises:
            ValueError: if the disk has less room.
        """
        needed = images * embedding.nbytes
        parent = next(path for path in (self.folder, *self.folder.absolute().parents) if path.exists())
        free = shutil.disk_usage(parent).free
        logger.info(
            "Embeddings: at most %d of %.1f MB at %d x %d pixels, %.2f GB in all.",
            images, embedding.nbytes / 1e6, *image_size, needed / GB,
        )  # fmt: skip
        if needed > free:
            raise ValueError(
                f"Expected {needed / GB:.1f} GB of free disk for the embeddings of {images} images at --embedding_dir, "
                f"found {free / GB:.1f} GB; choose another folder, or --embedding_dir '$None' to keep none."
            )


class Refiner:
    """Proposes masks for the classes of a target, and weighs them by their agreement with it.

    Args:
        model: promptable model on `device`, frozen.
        name: name of the model, for the record.
        image_size: rows and columns of the model's input.
        settings: margin, bounds and smallest area.
        embedding_dir: folder of cached embeddings; None: no cache.
        device: device of the model.
    """

    def __init__(
        self,
        model: PromptableSegmenter,
        name: str,
        image_size: tuple[int, int],
        settings: RefinerSettings,
        embedding_dir: str | Path | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.model, self.name, self.image_size, self.settings, self.device = model, name, image_size, settings, device
        self.sha256 = state_sha256(model)
        prefix = f"{self.sha256} {image_size}"
        self.cache = None if embedding_dir is None else EmbeddingCache(embedding_dir, prefix)
        self._sized = False

    @property
    def record(self) -> dict[str, Any]:
        """What the refined targets depend on, as JSON."""
        own = {"name": self.name, "sha256": self.sha256, "image_size": list(self.image_size)}
        return {**own, **asdict(self.settings), "iou_bounds": list(self.settings.iou_bounds)}

    def __call__(
        self, image: Tensor, source: Tensor, image_key: str, images: int = 1
    ) -> tuple[Tensor, dict[int, Agreement]]:
        """Returns the refined target (K, H, W), and the agreement of each prompted class.

        Args:
            image: (C, H, W) in [0, 1].
            source: probabilities of the target (K, H, W).
            image_key: name of the image in the cache.
            images: how many images will be refined, to foretell the size of the cache.
        """
        proposal = self.propose(image, source, image_key, images)
        return weigh(source, proposal, self.settings.iou_bounds)

    @torch.no_grad()
    def propose(self, image: Tensor, source: Tensor, image_key: str, images: int = 1) -> Proposal:
        """Returns the masks that the boxes of a target give; arguments as of a call."""
        boxes = {}
        classes = source.argmax(dim=0).numpy()
        for class_ in range(1, len(source)):
            box = component_box(classes == class_, self.settings.margin, self.settings.min_area)
            if box is not None:
                boxes[class_] = box
        if not boxes:
            return Proposal((), source.new_zeros(0, *source.shape[1:]))
        embedding = self._embedding(image, image_key, images)
        scale = torch.tensor([self.image_size[1] / image.shape[2], self.image_size[0] / image.shape[1]] * 2)
        prompts = torch.tensor(list(boxes.values())) * scale - 0.5  # from edges to centres of pixels
        logits = self.model.masks(embedding.to(self.device).float(), prompts.to(self.device))
        found = F.interpolate(
            logits.float().sigmoid()[None].cpu(), source.shape[1:], mode="bilinear", align_corners=False, antialias=True
        )[0]
        return Proposal(tuple(boxes), found)

    def _embedding(self, image: Tensor, image_key: str, images: int) -> Tensor:
        """Returns the embedding (E, h, w) of an image in float16, cached or not."""
        known = None if self.cache is None else self.cache.read(image_key)
        if known is not None:
            return known
        resized = F.interpolate(
            image[None].float(), self.image_size, mode="bilinear", align_corners=False, antialias=True
        ).clamp(0, 1)
        embedding = self.model.embed(resized.to(self.device))[0].half().cpu()
        if self.cache is not None:
            if not self._sized:
                self.cache.check_room(images, self.image_size, embedding)
                self._sized = True
            self.cache.write(image_key, embedding)
        return embedding


def component_box(mask: np.ndarray, margin: float, min_area: int) -> tuple[float, float, float, float] | None:
    """Returns the box x1 y1 x2 y2 of a mask's largest component, widened and cut at the image; None if it is small.

    Components connect across corners; of two of the same area, the first in reading order counts. Coordinates are
    those of pixel edges: the box of the whole image is 0, 0, W, H.

    Args:
        mask: (H, W).
        margin: fraction of the width and height added on each side.
        min_area: smallest area, pixels.
    """
    components, count = ndimage.label(mask, structure=np.ones((3, 3)))
    if not count:
        return None
    areas = np.bincount(components.ravel())[1:]
    largest = int(areas.argmax())
    if areas[largest] < min_area:
        return None
    rows, columns = ndimage.find_objects(components)[largest]
    height, width = mask.shape
    x, y = margin * (columns.stop - columns.start), margin * (rows.stop - rows.start)
    return (
        max(columns.start - x, 0.0), max(rows.start - y, 0.0),
        min(columns.stop + x, float(width)), min(rows.stop + y, float(height)),
    )  # fmt: skip


def weigh(source: Tensor, proposal: Proposal, iou_bounds: tuple[float, float]) -> tuple[Tensor, dict[int, Agreement]]:
    r"""Returns the target with refined classes, and the agreement of each.

    .. math:: q_c = (1 - w_c) \, p_c + w_c \, r_c, \qquad w_c = \mathrm{clip}((IoU_c - l) / (u - l), 0, 1)

    for the target p and the refined mask r of class c, with the IoU of `r_c > 0.5` and the pixels whose most probable
    class is c in p, all components included. Where refined classes overlap so that the foreground exceeds 1, it is
    divided by its sum and the background is 0: the more probable class keeps the lead. Elsewhere the background is
    what the foreground leaves.

    Args:
        source: probabilities of the target (K, H, W).
        proposal: refined masks.
        iou_bounds: bounds l and u.
    """
    if not proposal.classes:
        return source, {}
    lower, upper = iou_bounds
    classes = source.argmax(dim=0)
    foreground = source[1:].clone()
    agreements = {}
    for class_, refined in zip(proposal.classes, proposal.probabilities, strict=True):
        iou = mask_iou(refined > 0.5, classes == class_)
        weight = min(max((iou - lower) / (upper - lower), 0.0), 1.0)
        agreements[class_] = Agreement(iou, weight)
        foreground[class_ - 1] += weight * (refined - foreground[class_ - 1])
    if not any(agreement.weight for agreement in agreements.values()):
        return source, agreements
    total = foreground.sum(dim=0, keepdim=True)
    return torch.cat([(1 - total).clamp_min(0), foreground / total.clamp_min(1)]), agreements


def mask_iou(first: Tensor, second: Tensor) -> float:
    """Returns the intersection over union of two masks; 0 if both are empty."""
    union = int((first | second).sum())
    return int((first & second).sum()) / union if union else 0.0


def refiner_image_size(image_size: Sequence[int], longer_side: int) -> tuple[int, int]:
    """Returns rows and columns of the model's input: the longer side as given, the shape that of the task's image.

    Raises:
        ValueError: when the longer side is not a positive multiple of 16.
    """
    if not is_a(longer_side, int) or longer_side < PATCH or longer_side % PATCH:
        raise ValueError(f"Expected --refiner_size with a positive multiple of {PATCH}, found {longer_side!r}.")
    factor = longer_side / max(image_size)
    rows, columns = (max(PATCH, PATCH * round(side * factor / PATCH)) for side in image_size)
    return rows, columns


def load_refiner(
    name: str | None,
    weights: str | Path | None,
    image_size: Sequence[int],
    refiner_size: int = 256,
    settings: Mapping[str, Any] | None = None,
    embedding_dir: str | Path | None = None,
    device: torch.device | str = "cpu",
) -> Refiner | None:
    """Returns a refiner with a published promptable model; None without a name.

    Args:
        name: name of the model, such as `lite_medsam`.
        weights: file of its weights; None: where `build_promptable` finds them.
        image_size: rows and columns of the task's images.
        refiner_size: longer side of the model's input, pixels.
        settings: fields of `RefinerSettings`.
        embedding_dir: see `Refiner`.
        device: device of the model.

    Raises:
        ValueError: when a setting is out of range, or the model or its weights do not fit.
        FileNotFoundError: when the weights are missing.
    """
    if name is None:
        return None
    from tskd_monai.networks.promptable import build_promptable  # transformers takes seconds to import

    checked, size = RefinerSettings(**(settings or {})), refiner_image_size(image_size, refiner_size)
    model = build_promptable(name, weights, size)
    return Refiner(model.to(device), name, size, checked, embedding_dir, device)

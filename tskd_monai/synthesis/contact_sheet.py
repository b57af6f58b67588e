"""The contact sheet of a transfer set: real images, sampled images, and the real ones nearest to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from tskd_monai.files.atomic import atomic_path
from tskd_monai.synthesis.memorisation import Nearest

COLUMNS = 8  # images in a row
TITLE_HEIGHT = 16  # pixels
ROW_NAMES = {"pixels": "nearest training image in pixels", "features": "nearest training image in features"}


@dataclass(frozen=True)
class Sources:
    """The real slices that variations were sampled from.

    Attributes:
        indices: index of each variation's source among the training images.
        strength: fraction of the noise levels that the sources were noised by.
    """

    indices: Sequence[int]
    strength: float


def write_contact_sheet(
    path: Path,
    synthetic: torch.Tensor,
    real: torch.Tensor,
    nearest: Mapping[str, Nearest],
    sources: Sources | None = None,
) -> None:
    """Writes a PNG of two blocks: evenly spaced images of the set, and those nearest to a training image.

    Each block has a row of sampled images and, below each image, its nearest training image in each space. A row of
    evenly spaced training images stands above the first block. Variations stand below their sources.

    Args:
        path: path of the PNG.
        synthetic: sampled images (N, C, H, W) in [0, 1].
        real: training images (M, C, H, W).
        nearest: training images nearest to the sampled ones, by space: "pixels", "features".
        sources: sources of variations; None for images sampled from noise.
    """
    even = _evenly_spaced(len(synthetic))
    closest = np.argsort(np.min([found.distances for found in nearest.values()], axis=0), kind="stable")[:COLUMNS]
    rows = [("real training images", real, _evenly_spaced(len(real)))]
    kind = "synthetic" if sources is None else f"variation at strength {sources.strength:g}"
    for title, chosen in ((f"{kind}, evenly spaced", even), (f"{kind}, nearest to a training image", closest)):
        if sources is not None:
            rows.append(("real source of the variation below", real, np.asarray(sources.indices)[chosen]))
        rows.append((title, synthetic, chosen))
        rows.extend((ROW_NAMES[space], real, found.indices[chosen]) for space, found in nearest.items())
    height, width = synthetic.shape[-2:]
    sheet = Image.new("RGB", (COLUMNS * width, len(rows) * (height + TITLE_HEIGHT)), "white")
    pen = ImageDraw.Draw(sheet)
    for row, (title, images, chosen) in enumerate(rows):
        top = row * (height + TITLE_HEIGHT)
        pen.text((4, top + 2), title, fill="black")
        for column, index in enumerate(chosen):
            sheet.paste(_picture(images[int(index)]), (column * width, top + TITLE_HEIGHT))
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="PNG")


def _evenly_spaced(number: int) -> np.ndarray:
    return np.unique(np.linspace(0, number - 1, COLUMNS).round().astype(int))


def _picture(image: torch.Tensor) -> Image.Image:
    pixels = (image * 255).round().to(torch.uint8).numpy()
    return Image.fromarray(pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1)).convert("RGB")

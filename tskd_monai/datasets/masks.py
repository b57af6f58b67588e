"""Label maps from the annotations of public datasets: binary images, coded values, outlines and polygons."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from skimage.draw import polygon, polygon_perimeter
from skimage.morphology import convex_hull_image

from tskd_monai.data.image_file import read_image_file

logger = logging.getLogger(__name__)

SHOWN_VALUES = 8
SOFT_CUT = 127
THIN_FRACTION = 0.5
"""Maximum fraction of the enclosed region that an outline covers."""


def read_values(path: Path) -> np.ndarray:
    """Returns the integers in a label image, (rows, columns); colour images must have equal channels.

    Raises:
        ValueError: if the channels differ.
    """
    pixels = read_image_file(path)[:, :, 0]
    if pixels.ndim == 3:
        if not (pixels == pixels[..., :1]).all():
            raise ValueError(f"Expected one value per pixel in the label {path.name}, found colours; see {path}.")
        pixels = pixels[..., 0]
    return pixels.astype(np.int64)


def read_binary(path: Path, *, soft: bool = False) -> np.ndarray:
    """Returns a two-valued mask as 0 and 1, uint8 (rows, columns).

    Args:
        path: file of the mask.
        soft: threshold a mask of more values at half of 255, with a warning, instead of rejecting it.

    Raises:
        ValueError: if the mask has more than two values and `soft` is not set, or two of which neither is 0.
    """
    values = read_values(path)
    found = np.unique(values)
    if len(found) > 2 and soft:
        logger.warning("%s has %d values; it is thresholded at half of 255.", path.name, len(found))
        return (values > SOFT_CUT).astype(np.uint8)
    if len(found) > 2 or (len(found) == 2 and found[0] != 0):
        raise ValueError(
            f"Expected background 0 and one other value in the mask {path.name}, found "
            f"{found[:SHOWN_VALUES].tolist()}{' and more' if len(found) > SHOWN_VALUES else ''}; see {path}."
        )
    return (values > 0).astype(np.uint8)


def decode(values: np.ndarray, codes: Mapping[int, tuple[int, int]], path: Path) -> np.ndarray:
    """Returns the label map of an image that encodes each label as a range of grey values, uint8.

    Args:
        values: grey values as stored, (rows, columns).
        codes: lowest and highest grey value of each label, both inclusive; 0 is background.
        path: file of the image, for the message.

    Raises:
        ValueError: if a value is in no range.
    """
    label = np.zeros(values.shape, np.uint8)
    known = values == 0
    for value, (lowest, highest) in codes.items():
        inside = (values >= lowest) & (values <= highest)
        label[inside] = value
        known |= inside
    if not known.all():
        ranges = ", ".join(f"{lowest} to {highest}" for lowest, highest in codes.values())
        found = np.unique(values[~known])[:SHOWN_VALUES].tolist()
        raise ValueError(
            f"Expected 0 or values in {ranges} in the label {path.name}, found {found} in "
            f"{int((~known).sum())} pixels; see {path}."
        )
    return label


def fill_outline(outline: np.ndarray, path: Path) -> np.ndarray:
    """Returns the region enclosed by an elliptical outline, including the outline, uint8 (rows, columns).

    The region is the convex hull of the outline, which also closes an outline that is broken or cut by the image
    border.

    Args:
        outline: non-zero on the outline, (rows, columns).
        path: file of the image, for the message.

    Raises:
        ValueError: if there is no outline, or the image is already a filled mask.
    """
    drawn = outline > 0
    if not drawn.any():
        raise ValueError(f"Expected an outline in {path.name}, found an empty image; see {path}.")
    hull = convex_hull_image(drawn, offset_coordinates=False)
    if drawn.sum() > THIN_FRACTION * hull.sum():
        raise ValueError(
            f"Expected a thin outline in {path.name}, found {int(drawn.sum())} of the {int(hull.sum())} pixels inside "
            f"it drawn: the mask is filled already, or another image; see {path}."
        )
    return hull.astype(np.uint8)


def draw_polygons(
    shape: tuple[int, int], polygons: Iterable[tuple[int, Sequence[float], Sequence[float]]]
) -> np.ndarray:
    """Returns a label map with polygons drawn over one another, their edges included, uint8.

    Args:
        shape: (rows, columns) of the map.
        polygons: label value, columns and rows of the vertices of each polygon.
    """
    label = np.zeros(shape, np.uint8)
    for value, columns, rows in polygons:
        label[polygon(rows, columns, shape)] = value
        if len(rows) > 1:
            label[polygon_perimeter(rows, columns, shape, clip=False)] = value
    return label

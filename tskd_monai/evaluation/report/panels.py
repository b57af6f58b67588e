"""Images of the report, as PNG without text and as HTML: slices with coloured labels, contact sheets."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from tskd_monai.evaluation.report.display import DisplayVolume, load_for_display, to_grey_levels

# Okabe and Ito's colours, distinguishable with common colour vision deficiencies, then Paul Tol's muted set.
LABEL_COLOURS = (
    "#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#f0e442", "#d55e00", "#0072b2",
    "#882255", "#44aa99", "#ddcc77", "#88ccee", "#aa4499", "#117733", "#332288",
)  # fmt: skip
SINGLE_COLOUR = "#56b4e9"
PANEL_WIDTH = 380
TILE = 150
THUMBNAIL = 240  # pixels of the longer side, shown at some 150
FILL_OPACITY = 0.25
OUTLINE = 2  # pixels
THUMBNAIL_OUTLINE = 3
MARGIN = 0.25  # of the foreground's extent, on each side

Box = tuple[slice, slice]


def label_colours(labels: Mapping[int, str]) -> dict[int, str]:
    """Returns value -> "#rrggbb", in the order of the labels; colours repeat beyond fourteen.

    A single label is blue, since skin and retina, the common colour images, are orange themselves.
    """
    if len(labels) == 1:
        return dict.fromkeys(labels, SINGLE_COLOUR)
    return {value: LABEL_COLOURS[index % len(LABEL_COLOURS)] for index, value in enumerate(labels)}


def foreground_box(maps: Sequence[np.ndarray]) -> Box:
    """Returns the rows and columns around the foreground of all maps (H, W) plus a margin; all if there is none."""
    foreground = np.any([one > 0 for one in maps], axis=0)
    found = ndimage.find_objects(foreground.astype(np.uint8))
    if not found:
        return slice(0, foreground.shape[0]), slice(0, foreground.shape[1])
    rows, columns = (_widened(extent, size) for extent, size in zip(found[0], foreground.shape, strict=True))
    return rows, columns


def render_panel(
    pixels: np.ndarray,
    labels: np.ndarray | None,
    colours: Mapping[int, str],
    pixel_mm: tuple[float, float],
    box: Box | None = None,
) -> bytes:
    """Returns the PNG of a slice with its labels filled and outlined.

    Args:
        pixels: (H, W) or (H, W, 3), any numeric type.
        labels: (H, W) integers, or None for the bare image.
        colours: value -> "#rrggbb".
        pixel_mm: (mm per row, mm per column), so that the image keeps its physical aspect ratio.
        box: rows and columns to show; None shows all.
    """
    rows, columns = box or (slice(None), slice(None))
    levels = to_grey_levels(pixels)[rows, columns]
    height, width = levels.shape[0] * pixel_mm[0], levels.shape[1] * pixel_mm[1]
    size = (PANEL_WIDTH, max(1, round(PANEL_WIDTH * height / width)))
    return _png(_painted(levels, None if labels is None else labels[rows, columns], colours, size))


def render_thumbnail(
    pixels: np.ndarray, labels: np.ndarray | None, colours: Mapping[int, str], pixel_mm: tuple[float, float]
) -> bytes:
    """Returns the small JPEG of a whole slice with the outlines of its labels; arguments as of `render_panel`."""
    extent = np.array([pixels.shape[1] * pixel_mm[1], pixels.shape[0] * pixel_mm[0]])
    width, height = (max(1, round(float(side))) for side in extent * THUMBNAIL / extent.max())
    stream = io.BytesIO()
    painted = _painted(to_grey_levels(pixels), labels, colours, (width, height), fill=False)
    painted.save(stream, format="JPEG", quality=85, subsampling=0)  # outlines keep their colours
    return stream.getvalue()


@dataclass(frozen=True)
class Overlay:
    """One image of a row: a slice, with or without labels.

    Attributes:
        title: text below the image.
        labels: (H, W, D); None for the bare image.
        colours: value -> "#rrggbb".
        remark: text beside the title, such as a score.
    """

    title: str
    labels: np.ndarray | None
    colours: Mapping[int, str]
    remark: str = ""


def panel_row(volume: DisplayVolume, index: int, overlays: Sequence[Overlay], case: str) -> str:
    """Returns the HTML of one slice under several label maps, all cropped to the foreground of any of them.

    Args:
        volume: the image.
        index: index of the slice.
        overlays: the images of the row, in order.
        case: name of the case, for the alternative text.
    """
    pictures = zip(overlays, cropped_panels(volume, index, overlays), strict=True)
    panels = "".join(_panel(png, overlay, case) for overlay, png in pictures)
    # One row for up to four images, two rows for more.
    columns = len(overlays) if len(overlays) <= 4 else -(-len(overlays) // 2)
    return f'<div class="panels" style="--columns:{columns}">{panels}</div>'


def cropped_panels(volume: DisplayVolume, index: int, overlays: Sequence[Overlay]) -> list[bytes]:
    """Returns the PNG of each image of a row, cropped to the foreground of any of them; arguments as of `panel_row`."""
    planes = [None if overlay.labels is None else overlay.labels[:, :, index] for overlay in overlays]
    box = foreground_box([plane for plane in planes if plane is not None])
    pixels = volume.array[:, :, index]
    return [
        render_panel(pixels, plane, overlay.colours, volume.pixel_mm, box)
        for overlay, plane in zip(overlays, planes, strict=True)
    ]


def contact_sheet(paths: Sequence[Path], columns: int = 4, limit: int = 12) -> bytes:
    """Returns a PNG with up to `limit` images, evenly spaced in the list, on a transparent ground.

    Volumes are shown by their middle slice.
    """
    shown = evenly_spaced(paths, limit)
    lines = -(-len(shown) // columns)
    gap = 6
    sheet = Image.new("RGBA", (columns * (TILE + gap) - gap, lines * (TILE + gap) - gap), (0, 0, 0, 0))
    for index, path in enumerate(shown):
        volume = load_for_display(path)
        levels = to_grey_levels(volume.array[:, :, volume.array.shape[2] // 2])
        tile = Image.fromarray(np.ascontiguousarray(levels)).convert("RGB")
        extent = np.array([tile.width * volume.pixel_mm[1], tile.height * volume.pixel_mm[0]])
        width, height = (max(1, round(float(side))) for side in extent * TILE / extent.max())
        left, top = (index % columns) * (TILE + gap), (index // columns) * (TILE + gap)
        sheet.paste(Image.new("RGB", (TILE, TILE)), (left, top))
        tile = tile.resize((width, height), Image.Resampling.BICUBIC)
        sheet.paste(tile, (left + (TILE - width) // 2, top + (TILE - height) // 2))
    return _png(sheet)


def evenly_spaced(paths: Sequence[Path], limit: int) -> list[Path]:
    """Returns at most `limit` of the paths, evenly spaced in their order."""
    count = min(limit, len(paths))
    return [paths[(2 * index + 1) * len(paths) // (2 * count)] for index in range(count)]


def data_uri(picture: bytes, kind: str = "png") -> str:
    """Returns a PNG, or a picture of another kind, as a data URI for use in HTML."""
    return f"data:image/{kind};base64," + base64.b64encode(picture).decode("ascii")


def legend(labels: Mapping[int, str], colours: Mapping[int, str] | None = None) -> str:
    """Returns the HTML legend of colours: those of the labels unless others are given."""
    items = "".join(
        f'<li><span style="background:{colour}"></span>{escape(labels[value])}</li>'
        for value, colour in (colours or label_colours(labels)).items()
    )
    return f'<ul class="legend" aria-label="Colours">{items}</ul>'


def _panel(png: bytes, overlay: Overlay, case: str) -> str:
    over = "the image" if overlay.labels is None else f"{overlay.title} drawn over the image"
    remark = f" <span>{overlay.remark}</span>" if overlay.remark else ""
    caption = f"<figcaption>{escape(overlay.title)}{remark}</figcaption>"
    return f'<figure><img src="{data_uri(png)}" alt="{escape(f"Patient {case}: {over}")}">{caption}</figure>'


def _painted(
    levels: np.ndarray,
    labels: np.ndarray | None,
    colours: Mapping[int, str],
    size: tuple[int, int],
    fill: bool = True,
) -> Image.Image:
    """Returns a slice (H, W) or (H, W, 3) of grey levels at a size (width, height), with labels outlined and filled."""
    picture = Image.fromarray(np.ascontiguousarray(levels)).convert("RGB").resize(size, Image.Resampling.BICUBIC)
    if labels is None:
        return picture
    shown = Image.fromarray(np.ascontiguousarray(labels, dtype=np.int32)).resize(size, Image.Resampling.NEAREST)
    painted = _paint(np.asarray(picture, dtype=np.float32), np.asarray(shown), colours, fill)
    return Image.fromarray(painted.round().astype(np.uint8))


def _paint(painted: np.ndarray, labels: np.ndarray, colours: Mapping[int, str], fill: bool) -> np.ndarray:
    painted = painted.copy()
    opacity, outline = (FILL_OPACITY, OUTLINE) if fill else (0.0, THUMBNAIL_OUTLINE)
    for value, colour in colours.items():
        mask = labels == value
        inner = ndimage.binary_erosion(mask, iterations=outline, border_value=1)
        rgb = np.array([int(colour[start : start + 2], 16) for start in (1, 3, 5)], dtype=np.float32)
        painted[inner] = (1 - opacity) * painted[inner] + opacity * rgb
        painted[mask & ~inner] = rgb
    return painted


def _widened(extent: slice, size: int) -> slice:
    margin = max(4, round(MARGIN * (extent.stop - extent.start)))
    return slice(max(0, extent.start - margin), min(size, extent.stop + margin))


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format="PNG")
    return stream.getvalue()

"""2D image files: PNG, JPEG, BMP, TIFF."""

from __future__ import annotations

import io
import logging
import re
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from tskd_monai.files.limits import DEFLATE_MAX_RATIO, check_held, check_voxel_count, damage_explained

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
LOSSY_SUFFIXES = (".jpg", ".jpeg")
GREY_MODES = ("1", "L", "I;16", "I;16L", "I;16B", "I;16N", "I", "F")
ALPHA_MODES = {"LA": "L", "RGBA": "RGB"}
LOW_BITS = re.compile(r"L;([24])")
EXIF_ORIENTATION = 0x0112


def is_image_file(path: str | Path) -> bool:
    """Returns whether the suffix is that of a 2D image file."""
    return Path(path).suffix.lower() in IMAGE_SUFFIXES


def read_image_file(path: str | Path) -> np.ndarray:
    """Returns the pixels of a 2D image file as stored, rows first.

    A grey image has one channel and a colour image three; neither is converted to the other. An alpha channel that is
    opaque throughout is dropped. A palette is resolved, to grey if all its used colours are grey.

    Args:
        path: PNG, JPEG, BMP or TIFF file with one image.

    Returns:
        float32, (H, W, 1) for grey or (H, W, 1, 3) for colour; values as in the file (8-bit: 0 to 255; 4-bit: 0 to 15;
        1-bit: 0, 1).

    Raises:
        FileNotFoundError: when the file does not exist.
        ValueError: when the file is damaged, states more pixels than it can hold, holds several images, is partly
            transparent, or has a colour model other than grey and RGB.
    """
    return read_pixels(path).astype(np.float32)


def read_pixels(path: str | Path) -> np.ndarray:
    """Returns the pixels as `read_image_file` does, in the file's type: uint8 only for 8 bits per channel."""
    image, rawmode = _opened(Path(path))
    resolved = _resolved(image, Path(path).name)
    return _unscaled(np.asarray(resolved), rawmode if resolved is image else "")[:, :, None]


def read_label_file(path: str | Path) -> np.ndarray:
    """Returns the stored numbers of a 2D image file, rows first, as label values.

    Of a palette image these are the indices, regardless of the colours; low bit depths are not stretched, and a TIFF in
    which 0 is white is not inverted. Of a colour image with three equal channels, as editors save masks, it is one.

    Args:
        path: PNG, BMP or TIFF file with one image.

    Returns:
        float32, (H, W, 1); (H, W, 1, 3) for a colour image, which is no label map.

    Raises:
        FileNotFoundError: when the file does not exist.
        ValueError: see `read_image_file`.
    """
    path = Path(path)
    image, rawmode = _opened(path)
    if image.mode in ("P", "PA"):
        pixels = np.asarray(image)
        return (pixels if pixels.ndim == 2 else pixels[..., 0]).astype(np.float32)[:, :, None]
    image.info.pop("transparency", None)  # transparency does not affect the stored numbers
    resolved = _resolved(image, path.name)
    pixels = _unscaled(np.asarray(resolved), rawmode if resolved is image else "").astype(np.float32)
    _, _, variant = rawmode.partition(";")
    if rawmode[:1] in ("1", "L") and variant.endswith(("I", "IR")):
        pixels = _largest(rawmode) - pixels
    if pixels.ndim == 3 and (pixels == pixels[..., :1]).all():
        pixels = pixels[..., 0]
    return pixels[:, :, None]


def _opened(path: Path) -> tuple[Image.Image, str]:
    """Returns an image with its pixels read, and Pillow's name of their layout in the file, such as `L;4`."""
    if not path.is_file():
        raise FileNotFoundError(f"Expected an image file at {path}, found none; check the path in the datalist.")
    # From memory: from a file, Pillow requests as many bytes at once as a chunk's header states, up to 4 GB.
    with damage_explained("image file", path.name):
        try:
            image = Image.open(io.BytesIO(path.read_bytes()))
        except UnidentifiedImageError:  # Pillow's message names the object in memory
            raise UnidentifiedImageError("not a known image format") from None
    check_image_claims(image, path)
    with damage_explained("image file", path.name), image:
        frames = getattr(image, "n_frames", 1)
        rawmode = _rawmode(image)  # before Pillow searches for EXIF, which reads the pixels
        _warn_about_losses(image, path.name)
        image.load()
    if frames > 1:
        raise ValueError(f"Expected one image in {path.name}, found {frames}; save each as its own file.")
    return image, rawmode


def _rawmode(image: Image.Image) -> str:
    tiles = getattr(image, "tile", ())
    arguments = tiles[0][3] if tiles else ""
    mode = arguments if isinstance(arguments, str) else arguments[0] if arguments else ""
    return mode if isinstance(mode, str) else ""


def _largest(rawmode: str) -> int:
    """Returns the largest number of a grey layout such as `L;4`, whose numbers Pillow stretches to 255."""
    bits = LOW_BITS.match(rawmode)
    return 2 ** int(bits[1]) - 1 if bits else 1 if rawmode.startswith("1") else 255


def _unscaled(pixels: np.ndarray, rawmode: str) -> np.ndarray:
    """Returns grey pixels of 2 or 4 bits as the numbers in the file, float32, and other pixels unchanged."""
    if not LOW_BITS.match(rawmode):
        return pixels
    return np.rint(pixels * np.float32(_largest(rawmode) / 255))


def check_image_claims(image: Image.Image, path: Path) -> None:
    """Raises ValueError when a header states more pixels than an image may have or its file can hold.

    Args:
        image: opened image, without its pixels.
        path: path of its file.
    """
    values = image.width * image.height * len(image.getbands())
    check_held(values // 8, path.stat().st_size, DEFLATE_MAX_RATIO, path.name)  # at least one bit for each value
    check_voxel_count(values, path.name)


def _resolved(image: Image.Image, name: str) -> Image.Image:
    """Returns the image in a grey mode or RGB, or refuses it."""
    if image.mode in ("P", "PA"):
        image = _without_palette(image, name)
    if "transparency" in image.info:
        with damage_explained("image file", name):
            image = image.convert("RGBA" if image.mode == "RGB" else "LA")
    if image.mode in ALPHA_MODES:
        lowest = int(np.asarray(image.getchannel("A")).min())
        if lowest < 255:
            raise ValueError(
                f"Expected an opaque image in {name}, found transparent pixels; save it without an alpha channel."
            )
        logger.warning("%s has an alpha channel, opaque throughout; it is dropped.", name)
        image = image.convert(ALPHA_MODES[image.mode])
    if image.mode not in (*GREY_MODES, "RGB"):
        raise ValueError(f"Expected a grey or RGB image in {name}, found mode {image.mode}; save it as grey or RGB.")
    return image


def _without_palette(image: Image.Image, name: str) -> Image.Image:
    """Returns a palette image in the colours of the palette, with alpha if the palette has it."""
    with damage_explained("image file", name):
        colours = image.convert("RGBA" if "transparency" in image.info or image.mode == "PA" else "RGB")
    red, green, blue = (np.asarray(colours.getchannel(channel)) for channel in "RGB")
    grey = np.array_equal(red, green) and np.array_equal(green, blue)
    logger.warning("%s has a palette; it is read as %s.", name, "grey" if grey else "RGB")
    return colours.convert("LA" if colours.mode == "RGBA" else "L") if grey else colours


def _warn_about_losses(image: Image.Image, name: str) -> None:
    """Warns that the decoder drops the low byte of 16-bit colour, or a rotation in EXIF."""
    if image.mode in ("RGB", "RGBA") and any("16" in str(tile[3]) for tile in getattr(image, "tile", ())):
        logger.warning("%s has 16 bits per colour channel; the upper 8 are read.", name)
    orientation = image.getexif().get(EXIF_ORIENTATION, 1)
    if orientation != 1:
        logger.warning("%s asks viewers to rotate it (EXIF orientation %s); it is read as stored.", name, orientation)

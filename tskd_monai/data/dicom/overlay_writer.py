"""Writing label maps as a secondary capture: the images with coloured outlines, for systems that show only images.

Source: PS3.3 A.8.5 (Multi-frame True Color Secondary Capture Image IOD).
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset, FileDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import JPEGBaseline8Bit

from tskd_monai.data.dicom.geometry import SeriesGrid
from tskd_monai.data.dicom.reader import read_stack
from tskd_monai.data.dicom.result_writer import COLOURS, DicomResultWriter, result_header

OVERLAY_CLASS = "1.2.840.10008.5.1.4.1.1.7.4"
SERIES_NUMBER = 302
SHOWN = (0.5, 99.5)
"""Percentiles of the voxels that are black and white if the images state no window."""

QUALITY = 92
NOTE = "Automatic segmentation, not for clinical use"
CAPTION_HEIGHT = 14
"""Rows below the image for the note."""


class OverlayWriter(DicomResultWriter):
    """Writes the slices with the outlines of the labels as one secondary capture of colour frames (JPEG, lossy)."""

    def result(self, grid: SeriesGrid) -> FileDataset:
        """Returns the secondary capture; a frame per slice, in order of position."""
        frames = _frames(grid, self.segment_numbers(grid))
        jpegs = [_jpeg(frame) for frame in frames]
        dataset = result_header(self, grid, OVERLAY_CLASS, "OT", SERIES_NUMBER, "Segmentation on the images")
        dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
        for tag in ("FrameOfReferenceUID", "PositionReferenceIndicator"):  # pictures have no position
            if tag in dataset:
                del dataset[tag]
        dataset.ConversionType, dataset.BurnedInAnnotation = "WSD", "NO"
        dataset.ContentDate, dataset.ContentTime = dataset.SeriesDate, dataset.SeriesTime
        dataset.DerivationDescription = NOTE
        dataset.ImageType = ["DERIVED", "SECONDARY"]
        dataset.PatientOrientation = dataset.Laterality = ""
        dataset.SourceImageSequence = DicomSequence(_sources(grid.headers))
        _describe_pixels(dataset, frames)
        down, across = (round(1000 * float(value)) for value in grid.headers[0].PixelSpacing)
        if down != across:
            dataset.PixelAspectRatio = [down, across]
        dataset.LossyImageCompression, dataset.LossyImageCompressionMethod = "01", "ISO_10918_1"
        dataset.LossyImageCompressionRatio = f"{frames.nbytes / sum(map(len, jpegs)):.4g}"
        dataset.PixelData = encapsulate(jpegs)
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True
        return dataset


def _describe_pixels(dataset: Dataset, frames: np.ndarray) -> None:
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = frames.shape
    dataset.PhotometricInterpretation, dataset.PlanarConfiguration = "YBR_FULL_422", 0
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.FrameIncrementPointer = (0x0018, 0x2001)
    dataset.PageNumberVector = list(range(1, frames.shape[0] + 1))


def _frames(grid: SeriesGrid, numbers: np.ndarray) -> np.ndarray:
    """Returns the pictures (slices, rows, columns, 3), uint8."""
    grey = _shown(read_stack(grid.headers), grid.headers[0])
    colours = np.array([(0, 0, 0), *COLOURS], np.uint8)
    frames = np.repeat(grey[..., None], 3, axis=-1)
    for frame, plane in zip(frames, numbers, strict=True):
        edge = outline(plane)
        frame[edge] = colours[(plane[edge].astype(int) - 1) % len(COLOURS) + 1]
    # JPEG stores colours of two columns together.
    caption = _caption(frames.shape[2])
    return np.concatenate([frames, np.broadcast_to(caption, (len(frames), *caption.shape))], axis=1)


def _shown(stack: np.ndarray, header: Dataset) -> np.ndarray:
    """Returns physical values in the window of the images, uint8."""
    centres, widths = (np.ravel(header.get(tag) or []) for tag in ("WindowCenter", "WindowWidth"))
    if centres.size and widths.size and float(widths[0]) > 1:
        low, high = (float(centres[0]) + side * float(widths[0]) / 2 for side in (-1, 1))
    else:
        low, high = np.percentile(stack, SHOWN)
    scaled = (stack - low) / max(high - low, np.finfo(float).tiny)
    return np.rint(255 * np.clip(scaled, 0, 1)).astype(np.uint8)


def outline(plane: np.ndarray) -> np.ndarray:
    """Returns the pixels of labels that touch another label or the background, bool (rows, columns)."""
    padded = np.pad(plane, 1)
    inner = padded[1:-1, 1:-1]
    neighbours = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    return (inner > 0) & np.any([inner != other for other in neighbours], axis=0)


def _caption(width: int) -> np.ndarray:
    picture = Image.new("RGB", (width, CAPTION_HEIGHT))
    ImageDraw.Draw(picture).text((2, 1), NOTE, fill=(230, 230, 230))
    return np.asarray(picture)


def _jpeg(frame: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(frame).save(content, "JPEG", quality=QUALITY, subsampling="4:2:2")
    return content.getvalue()


def _sources(headers: Sequence[Dataset]) -> list[Dataset]:
    images = {str(header.SOPInstanceUID): str(header.SOPClassUID) for header in headers}
    items = []
    for uid, sop_class in images.items():
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, uid
        items.append(item)
    return items

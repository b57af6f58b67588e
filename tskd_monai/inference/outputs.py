"""What is done to a label map before it is written, and how it is written."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from monai.transforms import Compose, SaveImaged, Transform

from tskd_monai.data.dicom.seg_writer import DicomSegWriter
from tskd_monai.data.output_names import SEGMENTATION_POSTFIX, output_name, output_suffix
from tskd_monai.data.segmentation_writers import AtomicNiftiWriter, AtomicPngWriter
from tskd_monai.data.task import Task
from tskd_monai.files.option_path import text_path
from tskd_monai.inference.overlapped_io import SaveImageInBackgroundd, WriterThread
from tskd_monai.transforms.labels import KeepLargestComponentsd


def postprocessing(task: Task) -> Compose:
    """Returns the transform of `pred`, a label map (1, X, Y, Z) on the image's grid as `LabelMapInferer` leaves it.

    Args:
        task: of the case; names the labels of which only the largest connected component is kept.
    """
    steps: list[Transform] = []
    if task.filtered:
        steps.append(KeepLargestComponentsd("pred", task.filtered))
    return Compose(steps)


def save_segmentation(
    task: Task, output_dir: str | Path, thread: WriterThread | None = None, compression_level: int = 1
) -> SaveImaged:
    """Returns the transform that writes `pred` as `<case>_seg.nii.gz`, or `.png` for 2D images, whole or not at all.

    Args:
        task: of the case.
        output_dir: where to.
        thread: that writes in the background; None to write before going on.
        compression_level: of gzip, 1 (fast) to 9.
    """
    suffix = output_suffix(task)
    nifti = partial(AtomicNiftiWriter, compress_level=compression_level)
    return save_label_map(AtomicPngWriter if suffix == ".png" else nifti, suffix, output_dir, thread)


def save_label_map(writer: Any, suffix: str, output_dir: str | Path, thread: WriterThread | None = None) -> SaveImaged:
    """Returns the transform that writes `pred` with one of our writers, named after the case.

    Args:
        writer: class of the writer, or what makes one.
        suffix: of the file.
        output_dir: where to.
        thread: that writes in the background; None to write before going on.
    """
    options = {
        "output_dir": str(text_path(output_dir, "output_dir")),
        "output_postfix": SEGMENTATION_POSTFIX,
        "output_ext": suffix,
        "output_dtype": None,
        "resample": False,
        "separate_folder": False,
        "print_log": False,
        "writer": writer,
        "output_name_formatter": output_name,
    }
    return SaveImaged("pred", **options) if thread is None else SaveImageInBackgroundd(thread, "pred", options)


def save_dicom_seg(
    task: Task, output_dir: str | Path, segmentation_type: str = "BINARY", thread: WriterThread | None = None
) -> SaveImaged:
    """Returns the transform that writes `pred` of a DICOM series as a DICOM SEG that refers to it.

    Args:
        task: of the case; its labels' codes describe the segments.
        output_dir: where the file goes, named by a hash of the series' UID.
        segmentation_type: `BINARY` or `LABELMAP`.
        thread: that writes in the background; None to write before going on.
    """
    writer = partial(DicomSegWriter, labels=task.labels, algorithm_name=task.name, segmentation_type=segmentation_type)
    return save_label_map(writer, ".dcm", output_dir, thread)

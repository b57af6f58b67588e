"""Label maps of DICOM series as DICOM SEG."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from monai.transforms import SaveImaged

from tskd_monai.data.dicom.seg_writer import DicomSegWriter
from tskd_monai.data.task import Task
from tskd_monai.inference.outputs import save_label_map
from tskd_monai.inference.overlapped_io import WriterThread


def save_dicom_seg(
    task: Task, output_dir: str | Path, segmentation_type: str = "BINARY", thread: WriterThread | None = None
) -> SaveImaged:
    """Returns the transform that writes `pred` of a DICOM series as a DICOM SEG that refers to it.

    Args:
        task: of the study; its labels' codes describe the segments.
        output_dir: where the file goes, named by a hash of the series' UID.
        segmentation_type: `BINARY` or `LABELMAP`.
        thread: that writes in the background; None to write before going on.
    """
    writer = partial(DicomSegWriter, labels=task.labels, algorithm_name=task.name, segmentation_type=segmentation_type)
    return save_label_map(writer, ".dcm", output_dir, thread)

"""Label maps of DICOM series as DICOM SEG."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from monai.transforms import SaveImaged

from tskd_monai.data.dicom_seg_writer import DicomSegWriter
from tskd_monai.data.output_names import SEGMENTATION_POSTFIX, output_name
from tskd_monai.data.task import Task


def save_dicom_seg(task: Task, output_dir: str | Path, segmentation_type: str = "BINARY") -> SaveImaged:
    """Returns the transform that writes `pred` of a DICOM series as a DICOM SEG that refers to it.

    Args:
        task: of the study; its labels' codes describe the segments.
        output_dir: where the file goes, named by a hash of the series' UID.
        segmentation_type: `BINARY` or `LABELMAP`.
    """
    writer = partial(DicomSegWriter, labels=task.labels, algorithm_name=task.name, segmentation_type=segmentation_type)
    return SaveImaged(
        "pred",
        output_dir=str(output_dir),
        output_postfix=SEGMENTATION_POSTFIX,
        output_ext=".dcm",
        output_dtype=None,
        resample=False,
        separate_folder=False,
        print_log=False,
        writer=writer,  # type: ignore[arg-type]
        output_name_formatter=output_name,
    )

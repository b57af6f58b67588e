"""From logits to a label map in the input's own geometry, on disk."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from monai.transforms import (
    AsDiscreted,
    Compose,
    Invertd,
    KeepLargestConnectedComponentd,
    SaveImaged,
    Transform,
)

from tskd_monai.data.output_names import SEGMENTATION_POSTFIX, output_name, output_suffix
from tskd_monai.data.task import Task
from tskd_monai.transforms.labels import DecodeLabelsd


def postprocessing(task: Task, preprocessing: Compose) -> Compose:
    """Returns the transform from `pred` logits `(K, H, W, D)` to a label map on the input's grid.

    The class is chosen at the network's resolution and brought back by nearest neighbour: upsampling logits of many
    classes to full size costs gigabytes.

    Args:
        task: of the study.
        preprocessing: the transform that brought the image to the network, to be undone.
    """
    steps: list[Transform] = [AsDiscreted("pred", argmax=True)]
    if task.keep_largest_component:
        classes = [task.label_values.index(value) for value in task.keep_largest_component]
        steps.append(KeepLargestConnectedComponentd("pred", applied_labels=classes, independent=True))
    steps.append(Invertd("pred", transform=preprocessing, orig_keys="image", nearest_interp=True, to_tensor=True))
    steps.append(DecodeLabelsd("pred", task.label_values))
    return Compose(steps)


def save_segmentation(task: Task, output_dir: str | Path) -> SaveImaged:
    """Returns the transform that writes `pred` as `<case>_seg.nii.gz`, or `.png` for 2D images, whole or not at all."""
    suffix = output_suffix(task)
    writer = "AtomicPngWriter" if suffix == ".png" else "AtomicNiftiWriter"
    return SaveImaged(
        "pred",
        output_dir=str(output_dir),
        output_postfix=SEGMENTATION_POSTFIX,
        output_ext=suffix,
        output_dtype=None,
        resample=False,
        separate_folder=False,
        print_log=False,
        writer=f"tskd_monai.data.segmentation_writers.{writer}",
        output_name_formatter=output_name,
    )


def save_dicom_seg(task: Task, output_dir: str | Path) -> SaveImaged:
    """Returns the transform that writes `pred` of a DICOM series as a DICOM SEG that refers to it."""
    from tskd_monai.data.dicom_seg_writer import DicomSegWriter

    return SaveImaged(
        "pred",
        output_dir=str(output_dir),
        output_postfix=SEGMENTATION_POSTFIX,
        output_ext=".dcm",
        output_dtype=None,
        resample=False,
        separate_folder=False,
        print_log=False,
        writer=partial(DicomSegWriter, labels=task.labels, algorithm_name=task.name),  # type: ignore[arg-type]
        output_name_formatter=output_name,
    )

"""The images that the student learns on: real ones without labels, and synthetic ones."""

from __future__ import annotations

from pathlib import Path

from monai.transforms import Compose

from tskd_monai.data.datalist import transfer_images
from tskd_monai.data.slices import JoinedDataset, PreparedImageDataset, SliceDataset
from tskd_monai.data.task import Task
from tskd_monai.data.transfer_set import load_transfer_set


def transfer_dataset(
    datalist: str | Path,
    task: Task,
    preprocessing: Compose,
    augmentation: Compose,
    transfer_set: str | Path | None = None,
    fold: int | None = None,
) -> JoinedDataset:
    """Returns every slice of the training and unlabelled images, and the synthetic images; labels are not read.

    Args:
        datalist: of the study.
        task: of the study; a transfer set of another is refused.
        preprocessing: of a volume's `image`.
        augmentation: of a slice's `image`.
        transfer_set: folder with `transfer_set.json`; None: real images alone.
        fold: of the datalist.
    """
    real = SliceDataset(transfer_images(datalist, fold), preprocessing, augmentation, keys=("image",))
    entries = [] if transfer_set is None else load_transfer_set(transfer_set, task.hash)
    return JoinedDataset([real, PreparedImageDataset(entries, augmentation)])

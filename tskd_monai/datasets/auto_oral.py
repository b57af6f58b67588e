"""AutoOral: photographs of oral ulcers with masks, an official training and test set, workbooks with patient ids.

Layout of the authors' archive (github.com/wurenkai/HF-UNet-and-Autooral-dataset):

    Autooral_dataset/Train/data_train/0001.png, Train/mask_train/0001.png
    Autooral_dataset/Training Set disease classification.xlsx, with the columns `Patient ID` and `Image Number`
    Autooral_dataset/Test/data_test/…, Test/mask_test/…, Val/data_val/…, and their workbooks

Source: two public programs that read the training part of the archive. The names of the other parts follow from it
and from the authors' loader and are unconfirmed; a missing part is skipped. That loader reads masks as grey values up
to 255: a mask with more than two values is thresholded at half.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

from tskd_monai.datasets.dataset import Description, PublicDataset, Sample
from tskd_monai.datasets.layout import files_in, first_folder, require_file
from tskd_monai.datasets.masks import read_binary
from tskd_monai.datasets.workbook import read_sheet
from tskd_monai.datasets.writing import copied, mask_image

logger = logging.getLogger(__name__)

LAYOUT = "Train/data_train/0001.png with Train/mask_train/0001.png, and Training Set disease classification.xlsx"
PARTS = {"Train": ("train", "training"), "Val": ("val", "validation"), "Test": ("test", "test")}
"""Suffix of the folders in each part, and its section."""

DESCRIPTION = Description(
    name="auto_oral",
    title="AutoOral photographs of the mouth: the ulcer",
    modality="photography",
    channels=3,
    labels={0: "background", 1: "oral ulcer"},
    licence="academic research only, not for commercial purposes, by the authors' terms",
    reference="https://github.com/wurenkai/HF-UNet-and-Autooral-dataset",
    patients="`Patient ID` in the workbooks.",
    split="The official test set is `test`; validation is the official one, or drawn by patient from training.",
)


def find(source: Path) -> PublicDataset:
    """Returns the dataset.

    Args:
        source: path of `Autooral_dataset` or its parent.

    Raises:
        FileNotFoundError: if the layout differs, or a mask or a workbook is missing.
        ValueError: if a workbook does not name the patient of an image.
    """
    training = first_folder([source / "Train", source / "Autooral_dataset" / "Train"], "AutoOral", LAYOUT)
    parts = {name: training.with_name(name) for name in PARTS if training.with_name(name).is_dir()}
    owners = {name: _owners(folder) for name, folder in parts.items()}
    separate = _numbered_separately(owners)
    samples = [sample for name, folder in parts.items() for sample in _part(name, folder, owners[name], separate)]
    return PublicDataset(DESCRIPTION, tuple(samples))


def _part(name: str, folder: Path, owners: dict[int, str], separate: bool) -> list[Sample]:
    ending, section = PARTS[name]
    samples = []
    for image in files_in(folder / f"data_{ending}", r"\d+\.(png|jpg)", "AutoOral", LAYOUT):
        mask = require_file(folder / f"mask_{ending}" / f"{image.stem}.png", "AutoOral", LAYOUT)
        if int(image.stem) not in owners:
            raise ValueError(
                f"AutoOral: expected Image Number {int(image.stem)} in the workbook of {name}, found none for {image}; "
                "unpack the download again."
            )
        case = f"{ending}_{owners[int(image.stem)]}" if separate else owners[int(image.stem)]
        samples.append(_sample(case, image, mask, f"{ending}_{image.stem}", section))
    return samples


def _sample(case: str, image: Path, mask: Path, name: str, section: str) -> Sample:
    label = mask_image(mask, f"labels/{name}.png", lambda: read_binary(mask, soft=True))
    return Sample(case, copied(image, f"images/{name}{image.suffix}"), label, official=section)


def _owners(folder: Path) -> dict[int, str]:
    """Returns the patient of each image number, from the workbook beside the part's folder."""
    beside = [path for path in folder.parent.glob("*.xlsx") if re.match(rf"(?i){folder.name}", path.name)]
    if len(beside) != 1:
        raise FileNotFoundError(
            f"AutoOral: expected one workbook whose name begins with {folder.name} beside {folder}, found "
            f"{[path.name for path in beside] or 'none'}; it states the patient of each image. Unpack the download "
            "again."
        )
    owners = {}
    for row in read_sheet(beside[0]):
        number, patient = row.get("Image Number", ""), row.get("Patient ID", "")
        if not number.isdigit() or not patient:
            raise ValueError(
                f"{beside[0]}: expected `Image Number` and `Patient ID` in every row, found {row}; correct it."
            )
        owners[int(number)] = patient
    return owners


def _numbered_separately(owners: dict[str, dict[int, str]]) -> bool:
    """Returns whether parts share patient ids; then each part is assumed to number its own patients, with a warning."""
    patients = [set(numbers.values()) for numbers in owners.values()]
    shared = sum(map(len, patients)) - len(set().union(*patients))
    if shared:
        logger.warning(
            "AutoOral: %d patient ids occur in several of %s; each part is assumed to number its own patients.",
            shared,
            ", ".join(owners),
        )
    return bool(shared)

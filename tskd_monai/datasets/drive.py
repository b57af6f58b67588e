"""DRIVE: retinal vessels, an official training and an official test set of 20 images each.

Layout of the download of drive.grand-challenge.org:

    training/images/21_training.tif, training/1st_manual/21_manual1.gif, training/mask/21_training_mask.gif
    test/images/01_test.tif, test/mask/01_test_mask.gif
    test/1st_manual/01_manual1.gif, test/2nd_manual/01_manual2.gif (in the older download)

`mask` is the field of view and is not used. Without `1st_manual` the test images are unlabelled.

Source: the layout that several public loaders of the download agree on.
"""

from __future__ import annotations

from pathlib import Path

from tskd_monai.datasets.dataset import Description, OutputFile, PublicDataset, Sample
from tskd_monai.datasets.layout import files_in, first_folder, require_file
from tskd_monai.datasets.masks import read_binary
from tskd_monai.datasets.writing import copied, mask_image

LAYOUT = "training/images/21_training.tif with training/1st_manual/21_manual1.gif, and test/images/01_test.tif"
DESCRIPTION = Description(
    name="drive",
    title="DRIVE fundus photography: retinal vessels, first observer",
    modality="fundus photography",
    channels=3,
    labels={0: "background", 1: "vessel"},
    licence="research use by the terms of drive.grand-challenge.org, where the download needs an account",
    reference="https://drive.grand-challenge.org",
    patients="One image per patient.",
    split="The official test set is `test` where its labels were downloaded, else `unlabeled`; validation is drawn "
    "from the official training set.",
)
IMAGES_PER_SET = 20


def find(source: Path) -> PublicDataset:
    """Returns the dataset.

    Args:
        source: folder with `training` and `test`, or its parent with `DRIVE`.

    Raises:
        FileNotFoundError: if the layout differs, or an image lacks a mask.
        ValueError: if a set does not have 20 images.
    """
    training = first_folder([source / "training", source / "DRIVE" / "training"], "DRIVE", LAYOUT)
    samples = [*_set(training, "training"), *_set(training.with_name("test"), "test")]
    return PublicDataset(DESCRIPTION, tuple(samples))


def _set(folder: Path, name: str) -> list[Sample]:
    labelled = name == "training" or (folder / "1st_manual").is_dir()
    samples = []
    images = files_in(folder / "images", rf"\d+_{name}\.tif", "DRIVE", LAYOUT)
    for path in images:
        case = path.name.split("_")[0]
        first = _mask(folder, "1st_manual", f"{case}_manual1.gif", f"labels/{case}.png") if labelled else None
        both = (folder / "2nd_manual").is_dir()
        second = _mask(folder, "2nd_manual", f"{case}_manual2.gif", f"second_reader/{case}.png") if both else None
        samples.append(Sample(case, copied(path, f"images/{path.name}"), first, second, name if labelled else None))
    if len(samples) != IMAGES_PER_SET:
        raise ValueError(
            f"DRIVE: expected {IMAGES_PER_SET} images in {folder / 'images'}, found {len(samples)}; complete the "
            "download."
        )
    return samples


def _mask(folder: Path, reader: str, name: str, target: str) -> OutputFile:
    path = require_file(folder / reader / name, "DRIVE", LAYOUT)
    return mask_image(path, target, lambda: read_binary(path))

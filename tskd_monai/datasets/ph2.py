"""PH2: dermoscopic images with the outline of the lesion as a mask.

Layout of `PH2Dataset.rar` (Dermatology Service of Hospital Pedro Hispano, www.fc.up.pt/addi/ph2 database.html):

    PH2Dataset/PH2 Dataset images/IMD002/IMD002_Dermoscopic_Image/IMD002.bmp
    PH2Dataset/PH2 Dataset images/IMD002/IMD002_lesion/IMD002_lesion.bmp
    PH2Dataset/PH2 Dataset images/IMD002/IMD002_roi/…, PH2_dataset.txt, PH2_dataset.xlsx (not used)

Source: the layout that several public loaders of the archive agree on.
"""

from __future__ import annotations

import re
from pathlib import Path

from tskd_monai.datasets.dataset import Description, PublicDataset, Sample
from tskd_monai.datasets.layout import first_folder, require_file
from tskd_monai.datasets.masks import read_binary
from tskd_monai.datasets.writing import copied, mask_image

LAYOUT = "PH2 Dataset images/IMD002/{IMD002_Dermoscopic_Image/IMD002.bmp, IMD002_lesion/IMD002_lesion.bmp}"
DESCRIPTION = Description(
    name="ph2",
    title="PH2 dermoscopy: the lesion",
    modality="dermoscopy",
    channels=3,
    labels={0: "background", 1: "skin lesion"},
    licence="free for research and educational purposes, by the terms of the download page",
    reference="https://www.fc.up.pt/addi/ph2%20database.html",
    patients="The dataset does not state which images share a patient: each image counts as a patient.",
    split="Drawn by image: there is no official split.",
    official_images=200,
    official_patients=200,
)


def find(source: Path) -> PublicDataset:
    """Returns the dataset.

    Args:
        source: path of `PH2Dataset`, its parent, or the folder of the images.

    Raises:
        FileNotFoundError: if the layout differs, or an image has no mask.
    """
    name = "PH2 Dataset images"
    folder = first_folder(
        [source / name, source / "PH2Dataset" / name, *([source] if any(source.glob("IMD*")) else [])], "PH2", LAYOUT
    )
    samples = []
    for case in sorted(path for path in folder.iterdir() if path.is_dir() and re.fullmatch(r"IMD\d+", path.name)):
        image = require_file(case / f"{case.name}_Dermoscopic_Image" / f"{case.name}.bmp", "PH2", LAYOUT)
        mask = require_file(case / f"{case.name}_lesion" / f"{case.name}_lesion.bmp", "PH2", LAYOUT)
        samples.append(_sample(case.name, image, mask))
    return PublicDataset(DESCRIPTION, tuple(samples))


def _sample(case: str, image: Path, mask: Path) -> Sample:
    label = mask_image(mask, f"labels/{case}.png", lambda: read_binary(mask))
    return Sample(case, copied(image, f"images/{image.name}"), label)

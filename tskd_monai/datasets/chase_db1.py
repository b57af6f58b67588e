"""CHASE_DB1: retinal vessels of 14 children, both eyes, two readers.

Layout of `CHASEDB1.zip` (Kingston University), all in one folder:

    Image_01L.jpg, Image_01L_1stHO.png, Image_01L_2ndHO.png, Image_01R.jpg, …

Source: the dataset's page at researchinnovation.kingston.ac.uk (28 images of 14 children, two human observers) and the
14 images of it that the tests use.
"""

from __future__ import annotations

from pathlib import Path

from tskd_monai.datasets.dataset import Description, OutputFile, PublicDataset, Sample
from tskd_monai.datasets.layout import files_in, require_file
from tskd_monai.datasets.masks import read_binary
from tskd_monai.datasets.writing import copied, mask_image

LAYOUT = "Image_01L.jpg with Image_01L_1stHO.png and Image_01L_2ndHO.png in one folder"
DESCRIPTION = Description(
    name="chase_db1",
    title="CHASE_DB1 fundus photography: retinal vessels, first observer",
    modality="fundus photography",
    channels=3,
    labels={0: "background", 1: "vessel"},
    licence="public release of Kingston University for research; see the terms of the download page",
    reference="https://researchinnovation.kingston.ac.uk/en/datasets/chasedb1-retinal-vessel-reference-dataset-4/",
    patients="The number in the file name is the child; L and R are the eyes.",
    split="Drawn by child: there is no official split.",
    official_images=28,
    official_patients=14,
)


def find(source: Path) -> PublicDataset:
    """Returns the dataset; the second observer's masks are each entry's `second_reader`.

    Args:
        source: folder of the images.

    Raises:
        FileNotFoundError: if the layout differs, or an image lacks a mask.
    """
    samples = []
    for path in files_in(source, r"Image_\d+[LR]\.jpg", "CHASE_DB1", LAYOUT):
        first, second = (
            require_file(path.with_name(f"{path.stem}_{reader}HO.png"), "CHASE_DB1", LAYOUT)
            for reader in ("1st", "2nd")
        )
        samples.append(
            Sample(
                case=path.stem.removeprefix("Image_")[:-1],
                image=copied(path, f"images/{path.name}"),
                label=_mask(first, f"labels/{path.stem}.png"),
                second_reader=_mask(second, f"second_reader/{path.stem}.png"),
            )
        )
    return PublicDataset(DESCRIPTION, tuple(samples))


def _mask(path: Path, target: str) -> OutputFile:
    return mask_image(path, target, lambda: read_binary(path))

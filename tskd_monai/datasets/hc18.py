"""HC18: the fetal head in ultrasound; its annotated elliptical outline is filled here.

Layout of `training_set.zip` and `test_set.zip` (Zenodo 1327317, hc18.grand-challenge.org):

    training_set/000_HC.png, 000_HC_Annotation.png, 010_HC.png, 010_2HC.png, …
    training_set_pixel_size_and_HC.csv
    test_set/000_HC.png, … (numbered from 000 again, without annotation)

The number at the start of a name is the exam; `2HC` is a second image of the same exam. Which exams belong to one woman
is not stated. The test set is numbered from 000 again; its exams are assumed to be others.

Source: public descriptions of the download (training images from `000_HC.png` to `805_HC.png`, 999 of 806 exams; 335
test images) and public loaders of it.
"""

from __future__ import annotations

from pathlib import Path

from tskd_monai.datasets.dataset import Description, OutputFile, PublicDataset, Sample
from tskd_monai.datasets.layout import files_in, require_file
from tskd_monai.datasets.masks import fill_outline, read_values
from tskd_monai.datasets.writing import grey_image, mask_image

LAYOUT = "training_set/000_HC.png with training_set/000_HC_Annotation.png"
IMAGE = r"\d+_\d*HC\.png"
DESCRIPTION = Description(
    name="hc18",
    title="HC18 fetal ultrasound: the head, its annotated outline filled",
    modality="US",
    channels=1,
    labels={0: "background", 1: "fetal head"},
    licence="CC BY 4.0",
    reference="https://doi.org/10.5281/zenodo.1327317",
    patients="The number at the start of the file name is the exam; which exams share a patient is not stated.",
    split="Drawn by exam: the official test set has no labels (it is `unlabeled` where it was downloaded).",
    official_images=999,
    official_patients=806,
)


def find(source: Path) -> PublicDataset:
    """Returns the dataset.

    Args:
        source: folder with `training_set` and optionally `test_set`.

    Raises:
        FileNotFoundError: if the layout differs, or an image has no annotation.
    """
    samples = []
    for path in files_in(source / "training_set", IMAGE, "HC18", LAYOUT):
        outline = require_file(path.with_name(f"{path.stem}_Annotation.png"), "HC18", LAYOUT)
        samples.append(Sample(_exam(path), grey_image(path, f"images/{path.name}"), _mask(outline, path)))
    if (source / "test_set").is_dir():
        samples += [
            Sample(f"test_{_exam(path)}", grey_image(path, f"images/test_{path.name}"))
            for path in files_in(source / "test_set", IMAGE, "HC18", LAYOUT)
        ]
    return PublicDataset(DESCRIPTION, tuple(samples))


def _exam(path: Path) -> str:
    return path.name.partition("_")[0]


def _mask(outline: Path, image: Path) -> OutputFile:
    return mask_image(outline, f"labels/{image.name}", lambda: fill_outline(read_values(outline), outline))

"""KidneyUS (Open Kidney Ultrasound Data Set): B-mode images annotated by two sonographers.

Layout: the images, which are sent after registration, beside the repository's labels (github.com/rsingla92/kidneyUS):

    images/1_IM-0001-0059_anon.png
    labels/reviewed_labels_1.csv, labels/reviewed_labels_2.csv (VGG Image Annotator: one row per polygon)
    labels/reviewed_masks_1/{capsule,regions}/1_IM-0001-0059_anon.png, labels/reviewed_masks_2/… (drawn from the CSV)

Masks are used if their folder exists; else the polygons of the CSV are drawn. Over all files and both annotators they
differ only along edges (Dice above 0.99 for each structure), except in one image with two overlapping capsule polygons.
`capsule` is 1; `regions` are 1 central echo complex, 2 medulla, 3 cortex, later ones drawn over earlier ones as in the
authors' `create_masks.py`. The only rectangle in the CSVs, one pixel wide, counts as no annotation.

The CSVs name 534 files, of which 20 are repeats for measuring intra-rater variability: the same `IM-…` with another
number. They are left out here. An image in which the first annotator outlined nothing has no label, which differs from
an image without a kidney.

Source: README, CSVs, masks and `create_masks.py` of the repository. The folder name `images` is that of a public
loader; the repository says "a folder of PNG images".
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tskd_monai.data.image_file import read_image_file
from tskd_monai.datasets.dataset import Description, OutputFile, PublicDataset, Sample
from tskd_monai.datasets.layout import natural_key, require_file, require_folder
from tskd_monai.datasets.masks import draw_polygons, read_values
from tskd_monai.datasets.writing import grey_image, mask_image
from tskd_monai.files.json_files import parse_json

logger = logging.getLogger(__name__)

LAYOUT = "images/1_IM-0001-0059_anon.png beside labels/reviewed_labels_1.csv and labels/reviewed_masks_1/"
STRUCTURES = {"capsule": {1: "Capsule"}, "regions": {1: "Central Echo Complex", 2: "Medulla", 3: "Cortex"}}
"""Label values and their names in the CSV."""

ANNOTATORS = (1, 2)
Polygon = tuple[str, list[float], list[float]]


def find(source: Path, structures: str = "capsule", annotator: int = 1) -> PublicDataset:
    """Returns the dataset; the other annotator's masks are each entry's `second_reader`.

    Args:
        source: folder with `images` and `labels`.
        structures: `capsule` or `regions`.
        annotator: annotator whose annotations are the labels, 1 or 2.

    Raises:
        FileNotFoundError: if the layout differs, or an image is missing.
        ValueError: if the annotator is not 1 or 2, or a CSV is not in the format of VGG Image Annotator.
    """
    if annotator not in ANNOTATORS:
        raise ValueError(f"Expected --annotator 1 or 2, found {annotator}.")
    require_folder(source / "images", "KidneyUS", LAYOUT)
    readers = (annotator, 3 - annotator)
    tables = {reader: read_annotations(source / f"labels/reviewed_labels_{reader}.csv") for reader in readers}
    samples = []
    for name in _without_repeats(tables[annotator]):
        image = require_file(source / "images" / name, "KidneyUS", LAYOUT)
        label, second = (
            _mask(source, reader, structures, image, tables[reader].get(name, []), folder)
            for reader, folder in zip(readers, ("labels", "second_reader"), strict=True)
        )
        second = second if label is not None else None
        samples.append(Sample(_patient(name), grey_image(image, f"images/{name}"), label, second))
    return PublicDataset(_description(structures, annotator), tuple(samples))


def read_annotations(path: Path) -> dict[str, list[Polygon]]:
    """Returns the polygons of each file that a VGG Image Annotator CSV names: structure, columns and rows.

    Rows without a shape, and shapes that are not polygons, count as no annotation.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if a column is missing or a cell is not JSON; names the line.
    """
    require_file(path, "KidneyUS", LAYOUT)
    annotations: dict[str, list[Polygon]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        needed = {"filename", "region_shape_attributes", "region_attributes"}
        if not needed <= set(reader.fieldnames or ()):
            raise ValueError(f"{path}: expected the columns {sorted(needed)}, found {reader.fieldnames}.")
        for row in reader:
            polygons = annotations.setdefault(row["filename"], [])
            try:
                shape: dict[str, Any] = parse_json(row["region_shape_attributes"])
                attributes: dict[str, Any] = parse_json(row["region_attributes"])
            except ValueError as error:
                raise ValueError(
                    f"{path}, line {reader.line_num}: expected JSON, found {error}; copy it again."
                ) from error
            if shape.get("name") == "polygon":
                polygons.append((str(attributes.get("Anatomy")), shape["all_points_x"], shape["all_points_y"]))
    return annotations


def _mask(
    source: Path, reader: int, structures: str, image: Path, polygons: list[Polygon], folder: str
) -> OutputFile | None:
    """Returns the mask of one reader; None if the reader outlined none of the structures."""
    values = {name: value for value, name in STRUCTURES[structures].items()}
    chosen = sorted((values[name], x, y) for name, x, y in polygons if name in values)
    if not chosen:
        return None
    target = f"{folder}/{image.name}"
    masks = source / f"labels/reviewed_masks_{reader}/{structures}"
    if masks.is_dir():
        mask = require_file(masks / image.name, "KidneyUS", LAYOUT)
        return mask_image(mask, target, lambda: read_values(mask).astype(np.uint8))

    def draw() -> np.ndarray:
        rows, columns = read_image_file(image).shape[:2]
        return draw_polygons((rows, columns), chosen)

    return mask_image(image, target, draw)


def _without_repeats(annotations: Mapping[str, Any]) -> list[str]:
    """Returns the files in order of their number, without those that repeat an image under another number."""
    first: dict[str, str] = {}
    for name in sorted(annotations, key=lambda name: natural_key(Path(name))):
        first.setdefault(_image_id(name), name)
    repeats = len(annotations) - len(first)
    if repeats:
        logger.info("KidneyUS: %d files repeat an image under another number and are left out.", repeats)
    return list(first.values())


def _image_id(name: str) -> str:
    """Returns the image id, such as `IM-0001-0059_anon.png` for `1_IM-0001-0059_anon.png`."""
    return name.partition("_")[2]


def _patient(name: str) -> str:
    return name.partition("_")[0]


def _description(structures: str, annotator: int) -> Description:
    names = STRUCTURES[structures]
    return Description(
        name="kidney_us" if structures == "capsule" else "kidney_us_regions",
        title=f"KidneyUS ultrasound: {', '.join(names.values()).lower()}, annotator {annotator}",
        modality="US",
        channels=1,
        labels={0: "background", **{value: name.lower() for value, name in names.items()}},
        licence="CC BY-NC-SA; images after registration",
        reference="https://github.com/rsingla92/kidneyUS",
        patients="The number at the start of the file name; repeats of an image under another number are left out.",
        split="Drawn by that number: there is no official split. Images without annotation are `unlabeled`.",
    )

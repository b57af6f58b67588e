"""A user's own data as a datalist, without writing JSON by hand.

Three layouts are supported:

    mydata/images/a.nii.gz, mydata/labels/a.nii.gz, mydata/unlabelled/b.nii.gz     a folder
    Task04_Hippocampus/dataset.json, imagesTr/, labelsTr/, imagesTs/               Medical Segmentation Decathlon
    Dataset017_BTCV/dataset.json, imagesTr/case_0000.nii.gz, labelsTr/case.nii.gz  nnU-Net

An image is a NIfTI, NRRD, MetaImage or 2D image file, or a folder with a DICOM series. Its label has the same name, or
that name with a suffix such as `_seg` or `_mask`; a DICOM SEG or RTSTRUCT is found by its UIDs. Each image counts as a
patient, unless it is in the folder of a patient: `images/p01/left.png` and `images/p01/right.png`, with labels in
`labels/p01/`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from tskd_monai.data.datalist import SECTIONS
from tskd_monai.data.output_names import IMAGE_ENDINGS
from tskd_monai.data.slicer_segmentation import is_slicer_segmentation
from tskd_monai.data.structures import LISTED, STRUCTURES, parsed_structures
from tskd_monai.datasets.folder_images import image_of_label, images_by_name, patient_of
from tskd_monai.datasets.folder_labels import named_labels
from tskd_monai.datasets.splits import DEFAULT_SPLIT, DRAWN, draw_sections
from tskd_monai.datasets.structure_labels import any_named, dicom_label, dicom_labels, matched_by_uid, structure_names
from tskd_monai.files.json_files import read_json

logger = logging.getLogger(__name__)

UNLABELLED_FOLDERS = ("unlabelled", "unlabeled")
DATASET_JSON = "dataset.json"
NNUNET_CHANNEL = re.compile(r"_(\d{4})$")
PART_OF_PATIENT = re.compile(r"(.*\d.*?)(?:[_\-. ]+[^_\-. ]+|(?<=\d)[A-Za-z]+)")
"""Name of an image that ends in a part of its own after one with a number: `p01_left`, `Image_07R`."""

FEWEST_LABELLED = 3
LAYOUTS = "a datalist (JSON), a folder with images/ and labels/, or the folder of a Decathlon or nnU-Net dataset"

Pairs = dict[str, tuple[Path, Path]]
"""Image and label by the name of the image."""


def is_datalist(data: Path) -> bool:
    """Returns whether a path is a datalist, not a folder or the `dataset.json` of one.

    Raises:
        ValueError: if the file is not JSON.
    """
    if not data.is_file():
        return False
    if data.suffix.lower() != ".json":
        raise ValueError(f"Expected {LAYOUTS}, found the file {data}; give the folder that has its folder images/.")
    content = read_json(data)
    training = content.get("training") if isinstance(content, Mapping) else None
    named = isinstance(training, list) and not (
        training and isinstance(training[0], Mapping) and "case" not in training[0]
    )
    return named or data.name != DATASET_JSON


def user_datalist(
    data: Path, names: str | None = None, seed: int = 0, fewest: int = FEWEST_LABELLED, lenient: bool = False
) -> dict[str, Any]:
    """Returns the datalist of a user's folder, with absolute paths; training, validation and test are drawn by patient.

    Args:
        data: path of the folder or its `dataset.json`.
        names: names of the label values: `liver,spleen` in the order of the values, or `liver=1,spleen=4`; or of
            structures, as in `parsed_structures`. None: those of `dataset.json`, or `label_1` and so on.
        seed: seed of the draw.
        fewest: minimum number of patients with a label.
        lenient: see `label_values`.

    Raises:
        FileNotFoundError: if `data` does not exist.
        ValueError: if the layout is not supported, a label has no image, too few patients have a label, or the names
            do not match the values found.
    """
    if not data.exists():
        raise FileNotFoundError(f"Expected {LAYOUTS}, found nothing at {data}.")
    folder = data if data.is_dir() else data.parent
    pairs, unlabelled, described = _found_in(folder, lenient)
    patients = {patient_of(name) for name in pairs}
    if len(patients) < fewest:
        purpose = " (one each for training, validation and test)" if fewest > 1 else ""
        raise ValueError(
            f"Expected at least {fewest} patients with a label in {folder}{purpose}, found {len(patients)}."
        )
    _warn_of_shared_patients(pairs)
    sections = _sections(patients, seed) if fewest > 1 else dict.fromkeys(patients, "test")
    datalist: dict[str, Any] = {
        "name": described.get("name", folder.resolve().name),
        "description": _description(pairs, len(patients), len(unlabelled), names or described.get("labels")),
        **_labels(names, described.get("labels"), [label for _, label in pairs.values()], lenient),
        **({"modality": described["modality"]} if described.get("modality") else {}),
    }
    for section in DRAWN:
        datalist[section] = [
            {"image": str(pairs[name][0]), "label": str(pairs[name][1]), "case": patient_of(name)}
            for name in sorted(pairs)
            if sections[patient_of(name)] == section
        ]
    datalist[SECTIONS[3]] = _unlabelled_entries(unlabelled, sections)
    return datalist


def _labels(names: str | None, described: Mapping[str, str] | None, paths: list[Path], lenient: bool) -> dict[str, Any]:
    """Returns `labels` of a datalist, and `structures` if the labels of the folder are structures.

    Raises:
        ValueError: if structures are not named, besides the errors of `named_labels`.
    """
    dicom = [path for path in paths if dicom_label(path)]
    slicer = [path for path in paths if is_slicer_segmentation(path)]
    if dicom and names is None:
        raise ValueError(
            "Expected --labels with the structures to segment, such as --labels liver,spleen, found none; "
            f"{dicom[0].name} has {', '.join(structure_names(dicom[0])[:LISTED])}."
        )
    if names is not None and (dicom or slicer):
        labels, structures = parsed_structures(names)
        if dicom or any_named(slicer, [name for one in structures.values() for name in one["names"]]):
            return {"labels": labels, STRUCTURES: structures}
    return {"labels": named_labels(names, described, paths, lenient)}


def _found_in(folder: Path, lenient: bool) -> tuple[Pairs, dict[str, Path], dict[str, Any]]:
    """Returns the labelled images, the unlabelled ones, and the metadata of `dataset.json`."""
    if (folder / DATASET_JSON).is_file():
        return _of_dataset_json(folder)
    if not (folder / "images").is_dir():
        raise ValueError(
            f"Expected {LAYOUTS}, found {folder.resolve().name}/ without images/ and without {DATASET_JSON}"
            f"{_subfolders(folder)}{_advice(folder)}."
        )
    if not (folder / "labels").is_dir():
        raise ValueError(
            f"Expected labels/ beside images/ in {folder}, found none{_subfolders(folder)}. Name the folder of the "
            "label maps labels/."
        )
    return *_of_folder(folder, lenient), {}


def _subfolders(folder: Path) -> str:
    names = [f"{path.name}/" for path in sorted(folder.iterdir()) if path.is_dir() and path.name != "images"]
    return f" (but with {', '.join(names[:4])})" if names else ""


def _advice(folder: Path) -> str:
    """Returns advice for a folder that holds images itself."""
    if folder.resolve().name in ("images", "labels"):
        return "; give the folder that contains it"
    number = sum(path.is_file() and path.name.lower().endswith(IMAGE_ENDINGS) for path in folder.iterdir())
    return f"; move its {number} image files into images/ and labels/" if number else ""


def _description(pairs: Pairs, patients: int, unlabelled: int, names: Any) -> str:
    kind = "image" if len(pairs) == patients else "folder"
    shares = "{:.0f}, {:.0f} and {:.0f} %".format(*(100 * share for share in DEFAULT_SPLIT))
    text = f"Training, validation and test were drawn from {patients} patients ({shares}); each {kind} is a patient."
    text += f" Images without a label: {unlabelled}." if unlabelled else ""
    return text + ("" if names else " The labels are named after their values; --labels names them.")


def _warn_of_shared_patients(names: Iterable[str]) -> None:
    """Warns of images whose names look as if several were of one patient, such as `p01_left` and `p01_right`."""
    groups: dict[str, list[str]] = {}
    for name in names:
        part = None if "/" in name else PART_OF_PATIENT.fullmatch(name)
        groups.setdefault(part[1] if part else name, []).append(name)
    shared = next((group for group in groups.values() if len(group) > 1), None)
    if shared is not None and len(groups) > 1:
        patient = PART_OF_PATIENT.fullmatch(shared[0])
        example = patient[1] if patient else shared[0]
        logger.warning(
            "Names such as %s and %s look like images of one patient, but each counts as a patient, and the test may "
            "then use patients of the training. If they are, move them to images/%s/ and their labels to labels/%s/.",
            *sorted(shared)[:2],
            example,
            example,
        )


def _unlabelled_entries(unlabelled: Mapping[str, Path], sections: Mapping[str, str]) -> list[dict[str, str]]:
    """Returns the entries of unlabelled images, without those of patients of validation and test."""
    held_out = [name for name in sorted(unlabelled) if sections.get(patient_of(name), DRAWN[0]) != DRAWN[0]]
    if held_out:
        logger.warning(
            "%d unlabelled images, such as %s, are left out: training may not use patients of validation and test.",
            len(held_out),
            held_out[0],
        )
    return [
        {"image": str(unlabelled[name]), "case": patient_of(name)} for name in sorted(set(unlabelled) - set(held_out))
    ]


def _of_folder(folder: Path, lenient: bool) -> tuple[Pairs, dict[str, Path]]:
    """Returns image and label by name, and the unlabelled images by name, of `images/` and `labels/`."""
    dicom = dicom_labels(folder / "labels")
    found = images_by_name(folder / "labels", besides=dicom)
    images = images_by_name(folder / "images", found)
    labels = matched_by_uid(dicom, images, lenient) if dicom else {}
    unknown = [label for label in found if image_of_label(label, images) is None]
    if unknown:
        close = get_close_matches(unknown[0], images, n=1, cutoff=0.0)
        raise ValueError(
            f"Expected an image in {folder / 'images'} for each label, found none for {found[unknown[0]].name}"
            f"{f' and {len(unknown) - 1} others' if len(unknown) > 1 else ''}; the closest is "
            f"{images[close[0]].name}. A label has the name of its image, with or without a suffix such as _seg or "
            "_mask."
        )
    for label, path in found.items():
        name = str(image_of_label(label, images))
        if name in labels:
            raise ValueError(f"Expected one label of {name}, found {labels[name].name} and {path.name} in {folder}.")
        labels[name] = path
    unlabelled = {name: path for name, path in images.items() if name not in labels}
    for other in UNLABELLED_FOLDERS:
        if (folder / other).is_dir():
            for name, path in images_by_name(folder / other).items():
                if name in images or name in unlabelled:
                    raise ValueError(f"Expected each image once, found {name} in images/ and in {other}/ of {folder}.")
                unlabelled[name] = path
    return {name: (images[name], labels[name]) for name in images if name in labels}, unlabelled


def _of_dataset_json(folder: Path) -> tuple[Pairs, dict[str, Path], dict[str, Any]]:
    """Returns image and label by case, the unlabelled images by case, and the metadata in `dataset.json`."""
    content = read_json(folder / DATASET_JSON)
    if not isinstance(content, Mapping):
        raise ValueError(f"{folder / DATASET_JSON}: expected an object, found {type(content).__name__}.")
    names = _values_to_names(content, folder / DATASET_JSON)
    labels = images_by_name(_subfolder(folder, "labelsTr"))
    images = _single_channel(images_by_name(_subfolder(folder, "imagesTr")), folder, content)
    missing = sorted(set(labels) - set(images))
    if missing:
        raise ValueError(f"Expected an image in {folder / 'imagesTr'} for each label, found none for {missing[0]}.")
    pairs = {name: (images[name], labels[name]) for name in labels}
    test = (
        _single_channel(images_by_name(folder / "imagesTs"), folder, content) if (folder / "imagesTs").is_dir() else {}
    )
    unlabelled = {name: path for name, path in {**test, **images}.items() if name not in pairs}
    return pairs, unlabelled, {
        "name": content.get("name", folder.resolve().name), "labels": names, "modality": _modality(content)
    }  # fmt: skip


def _subfolder(folder: Path, name: str) -> Path:
    if not (folder / name).is_dir():
        raise ValueError(f"Expected {name}/ beside {folder / DATASET_JSON}, found none; expected {LAYOUTS}.")
    return folder / name


def _single_channel(images: Mapping[str, Path], folder: Path, content: Mapping[str, Any]) -> dict[str, Path]:
    """Returns the images by case: nnU-Net's `case_0000` is `case`.

    Raises:
        ValueError: if cases have several channels.
    """
    channels = {name: NNUNET_CHANNEL.search(name) for name in images}
    if any(channel is None for channel in channels.values()):
        return dict(images)
    second = next((name for name, channel in channels.items() if channel and int(channel[1])), None)
    if second is not None:
        described = content.get("channel_names")
        names = f" ({', '.join(map(str, described.values()))})" if isinstance(described, Mapping) else ""
        raise ValueError(
            f"Expected images of one channel (case_0000) in {folder}, found several{names}, such as "
            f"{images[second].name}. Make a folder with images/ and labels/, and copy one channel of each case and its "
            "label into it."
        )
    return {NNUNET_CHANNEL.sub("", name): path for name, path in images.items()}


def _sections(cases: Iterable[str], seed: int) -> dict[str, str]:
    """Returns the section of each patient: 70, 10 and 20 %, at least one each."""
    patients = sorted(set(cases))
    held_out = [max(1, round(share * len(patients))) for share in DEFAULT_SPLIT[1:]]
    return draw_sections(patients, (len(patients) - sum(held_out), *held_out), seed)


def _values_to_names(content: Mapping[str, Any], path: Path) -> dict[str, str] | None:
    """Returns the labels of a `dataset.json` from value to name; nnU-Net writes them from name to value.

    Raises:
        ValueError: if they are nnU-Net's regions, or two have one value.
    """
    labels = content.get("labels")
    if not isinstance(labels, Mapping):
        return None
    regions = [name for name, value in labels.items() if isinstance(value, (list, tuple))]
    if regions:
        raise ValueError(
            f"{path}: expected one value for each label, found the region {regions[0]}, which is not supported. Write "
            "one class per value into `labels`."
        )
    if all(isinstance(value, int) for value in labels.values()):
        names: dict[int, str] = {}
        for name, value in labels.items():
            if names.setdefault(value, name) != name:
                raise ValueError(
                    f"{path}: expected a value of its own for each label, found {value} for {names[value]} and {name}; "
                    "correct `labels`."
                )
        return {str(value): str(name) for name, value in labels.items()}
    return {str(value): str(name) for value, name in labels.items()}


def _modality(content: Mapping[str, Any]) -> str:
    channels = content.get("channel_names", content.get("modality", {}))
    return str(channels.get("0", "")) if isinstance(channels, Mapping) else str(channels)

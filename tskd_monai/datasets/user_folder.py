"""A user's own data as a datalist, without writing JSON by hand.

Three layouts are supported:

    mydata/images/a.nii.gz, mydata/labels/a.nii.gz, mydata/unlabelled/b.nii.gz     a folder
    Task04_Hippocampus/dataset.json, imagesTr/, labelsTr/, imagesTs/               Medical Segmentation Decathlon
    Dataset017_BTCV/dataset.json, imagesTr/case_0000.nii.gz, labelsTr/case.nii.gz  nnU-Net

An image is a NIfTI, NRRD, MetaImage or 2D image file, or a folder with a DICOM series. Its label has the same name, or
that name with a suffix such as `_seg` or `_mask`. Each image counts as a patient, because a file name does not state
the patient; if patients have several images, write a datalist.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tskd_monai.data.datalist import SECTIONS
from tskd_monai.data.image_file import is_image_file, read_pixels
from tskd_monai.data.labels import listed_values, whole_labels
from tskd_monai.data.output_names import IMAGE_ENDINGS, file_stem
from tskd_monai.data.volume_reader import VolumeReader
from tskd_monai.datasets.splits import DEFAULT_SPLIT, DRAWN, draw_sections
from tskd_monai.files.json_files import read_json

UNLABELLED_FOLDERS = ("unlabelled", "unlabeled")
NNUNET_CHANNEL = re.compile(r"_(\d{4})$")
LARGEST_NUMBER_OF_LABELS = 64
FEWEST_LABELLED = 3
LAYOUTS = "a datalist (JSON), a folder with images/ and labels/, or the folder of a Decathlon or nnU-Net dataset"


def is_datalist(data: Path) -> bool:
    """Returns whether a file is a datalist whose entries already name their case, as `load_datalist` requires."""
    if not data.is_file():
        return False
    content = read_json(data)
    training = content.get("training") if isinstance(content, Mapping) else None
    return isinstance(training, list) and not (
        training and isinstance(training[0], Mapping) and "case" not in training[0]
    )


def user_datalist(
    data: Path, names: str | None = None, seed: int = 0, fewest: int = FEWEST_LABELLED, lenient: bool = False
) -> dict[str, Any]:
    """Returns the datalist of a user's folder, with absolute paths; training, validation and test are drawn by image.

    Args:
        data: path of the folder or its `dataset.json`.
        names: names of the label values: `liver,spleen` in the order of the values, or `liver=1,spleen=4`. None: those
            of `dataset.json`, or `label_1` and so on.
        seed: seed of the draw.
        fewest: minimum number of labelled images.
        lenient: whether labels that cannot be read are skipped when label values are collected.

    Raises:
        FileNotFoundError: if `data` does not exist, or a file that `dataset.json` names is missing.
        ValueError: if the layout is not supported, a label has no image, too few images have a label, or the names do
            not match the values found.
    """
    if not data.exists():
        raise FileNotFoundError(f"Expected {LAYOUTS}, found nothing at {data}.")
    folder = data if data.is_dir() else data.parent
    if (folder / "dataset.json").is_file():
        pairs, unlabelled, described = _of_dataset_json(folder)
    elif (folder / "images").is_dir():
        pairs, unlabelled, described = *_of_folder(folder), {}
    else:
        raise ValueError(f"Expected {LAYOUTS}, found {folder.name}/ without images/ and without dataset.json.")
    if len(pairs) < fewest:
        raise ValueError(
            f"Expected at least {fewest} images with a label in {folder}"
            f"{' (one each for training, validation and test)' if fewest > 1 else ''}, found {len(pairs)}."
        )
    sections = _sections(sorted(pairs), seed) if fewest > 1 else dict.fromkeys(pairs, "test")
    labels = _named_labels(names, described.get("labels"), [label for _, label in pairs.values()], lenient)
    first = next(iter(pairs.values()))[0]
    datalist: dict[str, Any] = {
        "name": described.get("name", folder.resolve().name),
        "labels": labels,
        **({"modality": described["modality"]} if described.get("modality") else {}),
        **({"channels": 3} if is_image_file(first) and read_pixels(first).ndim == 4 else {}),
    }
    for section in DRAWN:
        datalist[section] = [
            {"image": str(pairs[case][0]), "label": str(pairs[case][1]), "case": case}
            for case in sorted(pairs)
            if sections[case] == section
        ]
    datalist[SECTIONS[3]] = [{"image": str(unlabelled[case]), "case": case} for case in sorted(unlabelled)]
    return datalist


def _of_folder(folder: Path) -> tuple[dict[str, tuple[Path, Path]], dict[str, Path]]:
    """Returns image and label by case, and the unlabelled images by case, of `images/` and `labels/`."""
    images = _by_name(folder / "images")
    found = _by_name(folder / "labels") if (folder / "labels").is_dir() else {}
    labels: dict[str, Path] = {}
    for label, path in found.items():
        name = _image_of_label(label, images)
        if name is None:
            raise ValueError(
                f"Expected an image in {folder / 'images'} for each label, found none for {path.name}. A label has the "
                "name of its image, with or without a suffix such as _seg or _mask."
            )
        if name in labels:
            raise ValueError(f"Expected one label of {name}, found {labels[name].name} and {path.name} in {folder}.")
        labels[name] = path
    unlabelled = {name: path for name, path in images.items() if name not in labels}
    for other in UNLABELLED_FOLDERS:
        if (folder / other).is_dir():
            for name, path in _by_name(folder / other).items():
                if name in images or name in unlabelled:
                    raise ValueError(f"Expected each image once, found {name} in images/ and in {other}/ of {folder}.")
                unlabelled[name] = path
    return {name: (images[name], labels[name]) for name in images if name in labels}, unlabelled


def _image_of_label(label: str, images: Mapping[str, Path]) -> str | None:
    """Returns the name of the image that a label belongs to: the longest that is a prefix of the label's name."""
    if label in images:
        return label
    begun = [name for name in images if label.startswith((f"{name}_", f"{name}-"))]
    return max(begun, key=len, default=None)


def _of_dataset_json(folder: Path) -> tuple[dict[str, tuple[Path, Path]], dict[str, Path], dict[str, Any]]:
    """Returns image and label by case, the unlabelled images by case, and the metadata in `dataset.json`."""
    content = read_json(folder / "dataset.json")
    if not isinstance(content, Mapping):
        raise ValueError(f"{folder / 'dataset.json'}: expected an object, found {type(content).__name__}.")
    labels = _by_name(_subfolder(folder, "labelsTr"))
    images = _single_channel(_by_name(_subfolder(folder, "imagesTr")), folder)
    missing = sorted(set(labels) - set(images))
    if missing:
        raise ValueError(f"Expected an image in {folder / 'imagesTr'} for each label, found none for {missing[0]}.")
    pairs = {name: (images[name], labels[name]) for name in labels}
    test = _single_channel(_by_name(folder / "imagesTs"), folder) if (folder / "imagesTs").is_dir() else {}
    unlabelled = {name: path for name, path in {**test, **images}.items() if name not in pairs}
    return pairs, unlabelled, {"name": content.get("name", folder.resolve().name), "labels": _values_to_names(content),
                               "modality": _modality(content)}  # fmt: skip


def _subfolder(folder: Path, name: str) -> Path:
    if not (folder / name).is_dir():
        raise ValueError(f"Expected {name}/ beside {folder / 'dataset.json'}, found none; expected {LAYOUTS}.")
    return folder / name


def _single_channel(images: Mapping[str, Path], folder: Path) -> dict[str, Path]:
    """Returns the images by case: nnU-Net's `case_0000` is `case`.

    Raises:
        ValueError: if cases have several channels.
    """
    channels = {name: NNUNET_CHANNEL.search(name) for name in images}
    if any(channel is None for channel in channels.values()):
        return dict(images)
    if any(channel and int(channel[1]) for channel in channels.values()):
        raise ValueError(
            f"Expected images of one channel (case_0000) in {folder}, found several; only one is supported. Keep "
            "one channel in images/ of a folder of your own."
        )
    return {NNUNET_CHANNEL.sub("", name): path for name, path in images.items()}


def _by_name(folder: Path) -> dict[str, Path]:
    """Returns the images of a folder by name: files with a known extension, and folders, each a DICOM series.

    Raises:
        ValueError: if two have the same name, or there is none.
    """
    found: dict[str, Path] = {}
    for path in _images(folder):
        name = file_stem(path)
        if name in found:
            raise ValueError(f"Expected one image called {name} in {folder}, found {found[name].name} and {path.name}.")
        found[name] = path.resolve()
    if not found:
        raise ValueError(
            f"Expected images in {folder}, found none; files end in {', '.join(IMAGE_ENDINGS)}, and a DICOM series "
            "is a folder."
        )
    return found


def _images(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if not path.name.startswith(".") and (path.is_dir() or path.name.lower().endswith(IMAGE_ENDINGS)):
            yield path


def _sections(cases: Sequence[str], seed: int) -> dict[str, str]:
    """Returns the section of each case: 70, 10 and 20 %, at least one case each."""
    held_out = [max(1, round(share * len(cases))) for share in DEFAULT_SPLIT[1:]]
    return draw_sections(cases, (len(cases) - sum(held_out), *held_out), seed)


def _values_to_names(content: Mapping[str, Any]) -> dict[str, str] | None:
    """Returns the labels of a `dataset.json` from value to name; nnU-Net writes them from name to value."""
    labels = content.get("labels")
    if not isinstance(labels, Mapping):
        return None
    if all(isinstance(value, int) for value in labels.values()):
        return {str(value): str(name) for name, value in labels.items()}
    return {str(value): str(name) for value, name in labels.items()}


def _modality(content: Mapping[str, Any]) -> str:
    channels = content.get("channel_names", content.get("modality", {}))
    return str(channels.get("0", "")) if isinstance(channels, Mapping) else str(channels)


def _named_labels(
    names: str | None, described: Mapping[str, str] | None, paths: Sequence[Path], lenient: bool
) -> dict[str, str]:
    """Returns the name of each label value, background first.

    Raises:
        ValueError: if there is not one name for each value in the labels.
    """
    if names is None and described:
        return dict(described)
    pairs = [name.partition("=") for name in (names or "").split(",") if name.strip()]
    if pairs and all(value for _, _, value in pairs):
        wrong = [value for _, _, value in pairs if not value.strip().isdecimal()]
        if wrong:
            raise ValueError(f"Expected whole numbers in --labels, such as liver=1,spleen=4, found {wrong[0]!r}.")
        return {"0": "background", **{value.strip(): name.strip() for name, _, value in pairs}}
    values = label_values(paths, lenient)
    if pairs and len(pairs) != len(values):
        raise ValueError(
            f"Expected --labels with a name for each label value found ({listed_values(values)}), found {len(pairs)} "
            "names; or give values, as in liver=1,spleen=4."
        )
    listed = [name.strip() for name, _, _ in pairs] or [f"label_{value}" for value in values]
    return {"0": "background", **{str(value): name for value, name in zip(values, listed, strict=True)}}


def label_values(paths: Sequence[Path], lenient: bool = False) -> list[int]:
    """Returns the values above 0 that label maps contain, sorted.

    Args:
        paths: paths of the label maps.
        lenient: whether files that cannot be read, or are no label maps, are skipped.

    Raises:
        ValueError: if they contain none, or too many for label maps; names the file.
    """
    found: set[int] = set()
    for path in paths:
        try:
            found |= _values_of(path)
        except (ValueError, FileNotFoundError):
            if not lenient:
                raise
    if not found:
        raise ValueError("Expected label values above 0 in labels/, found background only.")
    return sorted(found)


def _values_of(path: Path) -> set[int]:
    label, _ = VolumeReader(labels=True).read(path)
    values = np.unique(whole_labels(np.asarray(label), path.name))
    if len(values) > LARGEST_NUMBER_OF_LABELS or not np.array_equal(values, np.rint(values)) or values.min() < 0:
        raise ValueError(
            f"{path}: expected a label map (whole numbers from 0), found {listed_values(values)}; is it an image?"
        )
    return {int(value) for value in values if value > 0}

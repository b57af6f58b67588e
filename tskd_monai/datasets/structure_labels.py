"""DICOM SEG, RTSTRUCT and Slicer's segmentations as labels: their structures are written as label maps.

A label map is written once, on the grid of its image, and is named by the content of image and label. What reads a
dataset later, training and evaluation alike, reads the same voxels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tskd_monai.data.datalist import LABEL_KEYS, REFUSED, SECTIONS
from tskd_monai.data.dicom.label_reader import read_dicom_label
from tskd_monai.data.dicom.label_references import damage_named, read_label_header, refers_to
from tskd_monai.data.dicom.reader import read_grid
from tskd_monai.data.dicom.series import find_series
from tskd_monai.data.drawn_structures import DRAWN, IGNORE, undrawn_classes
from tskd_monai.data.nifti import write_nifti
from tskd_monai.data.slicer_segmentation import is_slicer_segmentation, read_segmentation, slicer_structures
from tskd_monai.data.structures import STRUCTURES, Wanted, label_map, same_name, wanted_of_datalist
from tskd_monai.data.volume_reader import VolumeReader
from tskd_monai.files.checksum import ContentHashes
from tskd_monai.files.private_files import private_file

FOLDER = "labels"
"""Folder, in the private folder of an output folder, of the label maps."""


def dicom_label(path: Path) -> Path | None:
    """Returns the DICOM SEG or RTSTRUCT at a path, a file or a folder with nothing else; None for other labels.

    Raises:
        ValueError: if a folder has several.
    """
    if not path.is_dir():
        return path if read_label_header(path) is not None else None
    found = dicom_labels(path)
    if len(found) > 1:
        raise ValueError(f"Expected one DICOM SEG or RTSTRUCT in {path}, found {len(found)}; name the file itself.")
    return found[0] if found else None


def dicom_labels(folder: Path) -> list[Path]:
    """Returns the DICOM SEG and RTSTRUCT files below a folder, in order."""
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and read_label_header(path) is not None]


def matched_by_uid(labels: Sequence[Path], images: Mapping[str, Path], lenient: bool = False) -> dict[str, Path]:
    """Returns the DICOM label of each image that has one, by the name of the image.

    Args:
        labels: DICOM SEG and RTSTRUCT files.
        images: images by name; those that are no folders of a DICOM series are ignored.
        lenient: whether to leave out images that cannot be read and labels without an image, which a survey lists.

    Raises:
        ValueError: if a label refers to none of the series, or two labels to one; names the files.
    """
    series = {}
    for name, path in images.items():
        try:
            series.update({name: find_series(path).headers} if path.is_dir() else {})
        except (ValueError, FileNotFoundError):
            if not lenient:
                raise
    matched: dict[str, Path] = {}
    for label in labels:
        header = read_label_header(label)
        assert header is not None
        with damage_named(label):
            names = [name for name, headers in series.items() if refers_to(header, headers)]
        if not names and not lenient:
            raise ValueError(
                f"Expected images/ with the DICOM series that each label was drawn on, found none that {label.name} "
                "refers to by its UIDs; add the series, or remove the label."
            )
        if len(names) > 1:
            raise ValueError(
                f"Expected one series that {label.name} was drawn on in images/, found {' and '.join(names[:2])}."
            )
        for name in names:
            if name in matched:
                raise ValueError(f"Expected one label of {name}, found {matched[name].name} and {label.name}.")
            matched[name] = label.absolute()
    return matched


def structure_names(label: Path) -> list[str]:
    """Returns the names of the structures in a DICOM label or a segmentation of Slicer, from its header."""
    if is_slicer_segmentation(label):
        return [segment.name for segment in read_segmentation(label).segments]
    header = read_label_header(label)
    with damage_named(label):
        items = [] if header is None else (header.get("SegmentSequence") or header.get("StructureSetROISequence") or [])
        return [str(item.get("SegmentLabel") or item.get("ROIName") or "") for item in items]


def any_named(labels: Iterable[Path], names: Sequence[str]) -> bool:
    """Returns whether a segmentation of Slicer has a segment with one of the names; others state label values only."""
    return any(
        same_name(segment.name, name) or name in segment.codes
        for label in labels
        for segment in read_segmentation(label).segments
        for name in names
    )


def with_label_maps(
    datalist: dict[str, Any], output_dir: Path, source: object, lenient: bool = False
) -> dict[str, Any]:
    """Returns a datalist whose labels are label maps; those that are structures are written as such.

    Args:
        datalist: content with absolute paths; `structures` names those of each label (`wanted_of_datalist`).
        output_dir: output folder; label maps are written into its private folder.
        source: path of the datalist in messages.
        lenient: whether to keep an entry with the reason why it is refused, instead of raising.

    Raises:
        FileNotFoundError: if an image or label is missing.
        ValueError: if a label cannot be read as the structures; see `structures.label_map`.
    """
    files = _structure_files(datalist, source)
    if not files:
        return datalist
    wanted = wanted_of_datalist(datalist["labels"], datalist.get(STRUCTURES), source)
    hashes = ContentHashes(private_file(output_dir, "label_hashes.json"))
    converted = {name: value for name, value in datalist.items() if name != STRUCTURES}
    for section in SECTIONS[:3]:
        converted[section] = []
        for entry in datalist.get(section, []):
            changed = dict(entry)
            try:
                for key in set(LABEL_KEYS) & set(entry):
                    if file := files.get(entry[key]):
                        present = _drawn(wanted, entry)
                        changed[key] = str(_written(file, Path(entry["image"]), present, output_dir, hashes))
            except (ValueError, FileNotFoundError) as error:
                if not lenient:
                    raise
                changed = {**entry, REFUSED: str(error)}
            converted[section].append(changed)
    hashes.save()
    return converted


def _drawn(wanted: Sequence[Wanted], entry: Mapping[str, Any]) -> list[Wanted]:
    """Returns the wanted structures that were drawn in a case, and what marks voxels to ignore."""
    names = ["background", *(one.label for one in wanted if one.label != IGNORE)]
    undrawn = undrawn_classes(entry.get(DRAWN), names, f"case {entry.get('case')}")
    return [one for one in wanted if one.label not in {names[index] for index in undrawn}]


def _structure_files(datalist: Mapping[str, Any], source: object) -> dict[str, Path]:
    """Returns the files with structures by the labels of a datalist; none for labels that are label maps."""
    labels = {
        str(entry[key])
        for section in SECTIONS[:3]
        for entry in datalist.get(section, [])
        for key in LABEL_KEYS
        if isinstance(entry.get(key), str)
    }
    files = {label: file for label in sorted(labels) if (file := dicom_label(Path(label)))}
    slicer = {label: Path(label) for label in sorted(labels) if is_slicer_segmentation(Path(label))}
    if slicer and STRUCTURES not in datalist:
        wanted = wanted_of_datalist(datalist["labels"], None, source)
        present = [path for path in slicer.values() if path.is_file()]
        slicer = slicer if any_named(present, [name for one in wanted for name in one.names]) else {}
    return {**files, **slicer}


def _written(label: Path, image: Path, wanted: Sequence[Wanted], output_dir: Path, hashes: ContentHashes) -> Path:
    """Returns the label map of an image, written unless it is there."""
    described = json.dumps([hashes.of(label), hashes.of(image), str(image), [asdict(one) for one in wanted]])
    name = f"{hashlib.sha256(described.encode()).hexdigest()[:16]}.nii.gz"
    path = private_file(output_dir, FOLDER).absolute() / name
    if path.is_file():
        return path
    if is_slicer_segmentation(label):
        voxels, meta = VolumeReader().read(image)
        shape, affine = voxels.shape[:3], meta["affine"]
        structures = slicer_structures(label, shape, affine)
    elif image.is_dir():
        grid = read_grid(image)[1]
        shape, affine = grid.shape, grid.affine
        structures = read_dicom_label(label, grid)
    else:
        raise ValueError(
            f"Expected the DICOM series that {label.name} was drawn on as its image, found the file {image.name}; "
            "give the folder of the series."
        )
    voxels = label_map(structures, wanted, shape, label.name)
    path.parent.mkdir(exist_ok=True)
    write_nifti(path, voxels, affine)
    return path

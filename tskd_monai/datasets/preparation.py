"""A public dataset on disk: files, checks, sections, and the datalist that names them."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tskd_monai.data.datalist import SECTIONS
from tskd_monai.datasets.dataset import Description, PublicDataset, Sample
from tskd_monai.datasets.inspection import Inspection, inspect_entry, repeated_images
from tskd_monai.datasets.splits import DEFAULT_SPLIT, assign_sections, draw_folds
from tskd_monai.files.atomic import atomic_path
from tskd_monai.files.checksum import file_sha256
from tskd_monai.files.json_files import read_json, write_json

logger = logging.getLogger(__name__)

RECORD = "preparation.json"
FORMAT_VERSION = 1  # increased when the same download gives different files


def prepare_dataset(
    dataset: PublicDataset,
    output_dir: str | Path,
    *,
    split: Sequence[float] = DEFAULT_SPLIT,
    folds: int = 0,
    seed: int = 0,
    allow_partial: bool = False,
) -> Path:
    """Writes the files of a dataset and its datalist, and returns the datalist's path.

    Finished files are kept, so an interrupted call resumes; the datalist is written last. Every file is read back
    before it is listed. An image whose pixels repeat those of another is left out.

    Args:
        dataset: dataset found by a preparer.
        output_dir: new folder, or one with an unfinished preparation of the same dataset.
        split: fractions, or numbers of patients, for training, validation and test.
        folds: number of folds of cross-validation by patient, besides the sections; 0 for none.
        seed: seed of sections and folds.
        allow_partial: accept fewer images than the official download has.

    Raises:
        ValueError: if images are missing, a file does not match the description of the dataset, or the folder contains
            another preparation.
    """
    folder = Path(output_dir)
    _check_complete(dataset, allow_partial)
    _sections_and_folds(dataset.samples, split, folds, seed)  # rejects a wrong split before anything is written
    record = _claim(folder, dataset, {"split": list(split), "folds": folds, "seed": seed})
    for sample in tqdm(dataset.samples, desc="Writing", unit="image"):
        for file in sample.files().values():
            _write(folder / file.path, file.write)
    inspections = [
        _inspect(sample, folder, dataset.description) for sample in tqdm(dataset.samples, desc="Checking", unit="image")
    ]
    kept, left_out = _without_repeats(dataset.samples, inspections)
    _log_empty(kept, dataset.samples, inspections)
    sections, cross_validation = _sections_and_folds(kept, split, folds, seed)
    datalist = {**_datalist(dataset.description, kept, sections, seed), "left_out": left_out}
    if cross_validation:
        datalist["folds"] = cross_validation
    files = sorted({file.path for sample in dataset.samples for file in sample.files().values()})
    write_json(folder / RECORD, {**record, "files": {path: file_sha256(folder / path) for path in files}})
    write_json(folder / "datalist.json", datalist)
    return folder / "datalist.json"


def count_sections(datalist: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Returns the number of images and patients of each section of a datalist."""
    return {
        section: {"images": len(entries), "patients": len({str(entry["case"]) for entry in entries})}
        for section in SECTIONS
        if (entries := datalist.get(section))
    }


def _check_complete(dataset: PublicDataset, allow_partial: bool) -> None:
    """Rejects fewer or more labelled images than the official download has, unless that is allowed."""
    labelled = [sample for sample in dataset.samples if sample.label is not None]
    if not labelled:
        raise ValueError(f"{dataset.description.name}: expected labelled images, found none; check --source.")
    found = (len(labelled), len({sample.case for sample in labelled}))
    official = (dataset.description.official_images, dataset.description.official_patients)
    if official[0] is None or found == official:
        return
    message = (
        f"{dataset.description.name}: expected {official[0]} labelled images of {official[1]} patients, as in the "
        f"official download, found {found[0]} of {found[1]}"
    )
    if not allow_partial:
        raise ValueError(f"{message}; complete the download, or use what is there with --allow-partial.")
    logger.warning("%s; using what is there.", message)


def _claim(folder: Path, dataset: PublicDataset, options: Mapping[str, Any]) -> dict[str, Any]:
    """Records what the folder will contain, or checks it against the record."""
    paths = [file.path for sample in dataset.samples for file in sample.files().values()]
    if len(set(paths)) < len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise ValueError(f"{dataset.description.name}: expected a name of its own for each file, found {twice} twice.")
    entries = [dataset.description.title, *([sample.entry(), sample.official] for sample in dataset.samples)]
    record: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "dataset": dataset.description.name,
        "options": dict(options),
        "entries_sha256": hashlib.sha256(json.dumps(entries).encode()).hexdigest(),
    }
    path = folder / RECORD
    if not path.is_file():
        if folder.is_dir() and any(folder.iterdir()):
            raise ValueError(
                f"Expected a new folder or an unfinished preparation in {folder}, found other files in it."
            )
        write_json(path, record)
        return record
    found = {key: value for key, value in read_json(path).items() if key != "files"}
    if found != record:
        raise ValueError(
            f"{path}: expected a preparation of {record['dataset']} with {record['options']} from the same files, "
            f"found {found.get('dataset')} with {found.get('options')}; choose another folder or delete this one."
        )
    return record


def _inspect(sample: Sample, folder: Path, description: Description) -> Inspection:
    """Returns the properties of a sample's files; rejected files are removed, for the next run to write again."""
    sources = {key: file.source for key, file in sample.files().items()}
    try:
        return inspect_entry(sample.entry(), folder, description.labels, description.channels, sources)
    except ValueError:
        for file in sample.files().values():
            (folder / file.path).unlink(missing_ok=True)
        raise


def _write(path: Path, write: Callable[[Path], None]) -> None:
    if not path.is_file():
        with atomic_path(path) as temporary:
            write(temporary)


def _without_repeats(
    samples: Sequence[Sample], inspections: Sequence[Inspection]
) -> tuple[list[Sample], list[dict[str, str]]]:
    """Returns the samples to list and, with the reason, those to leave out.

    Of images with the same pixels, an official test image is kept before others, and a labelled one before an
    unlabelled one. Unlabelled images of a patient with labelled ones are left out, since the patient would be in two
    sections.
    """
    rank = {"test": 0, "validation": 1}
    order = sorted(
        range(len(samples)), key=lambda i: (samples[i].label is None, rank.get(samples[i].official or "", 2), i)
    )
    entries = [samples[index].entry() for index in order]
    repeats = repeated_images(entries, [inspections[index] for index in order])
    left_out = [
        {"image": entry["image"], "reason": f"the same pixels as {original['image']}"} for entry, original in repeats
    ]
    gone = {item["image"] for item in left_out}
    labelled = {sample.case for sample in samples if sample.label is not None and sample.image.path not in gone}
    left_out += [
        {"image": sample.image.path, "reason": f"no label, and patient {sample.case} has labelled images"}
        for sample in samples
        if sample.label is None and sample.case in labelled and sample.image.path not in gone
    ]
    gone = {item["image"] for item in left_out}
    for item in left_out:
        logger.warning("%s is left out: %s.", item["image"], item["reason"])
    return [sample for sample in samples if sample.image.path not in gone], left_out


def _sections_and_folds(
    samples: Sequence[Sample], split: Sequence[float], folds: int, seed: int
) -> tuple[dict[str, str], list[dict[str, list[str]]]]:
    """Returns the section of each patient with a label, and folds over those whose section is not official."""
    sections = assign_sections(samples, split, seed)
    fixed = {sample.case for sample in samples if sample.official in ("validation", "test")}
    drawn = {case: section for case, section in sections.items() if case not in fixed}
    return sections, draw_folds(drawn, folds, seed) if folds else []


def _datalist(
    description: Description, kept: Sequence[Sample], sections: Mapping[str, str], seed: int
) -> dict[str, Any]:
    listed: dict[str, list[dict[str, str]]] = {section: [] for section in SECTIONS}
    for sample in kept:
        listed[sections[sample.case] if sample.label is not None else "unlabeled"].append(sample.entry())
    return {
        "name": description.name,
        "description": f"{description.title}. Licence: {description.licence}. Source: {description.reference}.",
        "licence": description.licence,
        "reference": description.reference,
        "modality": description.modality,
        "channels": description.channels,
        "labels": {str(value): name for value, name in description.labels.items()},
        "patients": description.patients,
        "split": f"{description.split} Seed {seed}.",
        "counts": count_sections(listed),
        **{section: entries for section, entries in listed.items() if entries},
    }


def _log_empty(kept: Sequence[Sample], samples: Sequence[Sample], inspections: Sequence[Inspection]) -> None:
    listed = {sample.image.path for sample in kept}
    empty = [
        sample.image.path
        for sample, inspection in zip(samples, inspections, strict=True)
        if sample.label is not None
        and sample.image.path in listed
        and not any(number for value, number in inspection.counts.items() if value)
    ]
    if empty:
        logger.warning("%d labels contain only background, the first is that of %s.", len(empty), empty[0])

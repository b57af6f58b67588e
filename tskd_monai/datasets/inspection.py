"""Checks of a prepared dataset by reading it back: sizes, geometry, label values, channels, repeated images."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tskd_monai.data.grid import corner_distance, same_grid
from tskd_monai.data.labels import listed_values
from tskd_monai.data.volume_reader import VolumeReader

LABEL_KEYS = ("label", "second_reader")


@dataclass(frozen=True)
class Inspection:
    """Properties of one sample, read back from its files.

    Attributes:
        shape: shape of the image, three spatial axes.
        counts: number of pixels or voxels of each declared value in its label; empty without a label.
        pixels_sha256: SHA-256 of the image's shape and values, independent of the file format.
    """

    shape: tuple[int, ...]
    counts: Mapping[int, int]
    pixels_sha256: str


def inspect_entry(
    entry: Mapping[str, Any], folder: Path, labels: Mapping[int, str], channels: int, sources: Mapping[str, Path]
) -> Inspection:
    """Returns the properties of a datalist entry, read by the reader that training uses.

    Args:
        entry: entry with `image` and optionally `label` and `second_reader`, relative to the folder.
        folder: folder of the datalist.
        labels: declared label values.
        channels: number of channels of every image.
        sources: source file in the download for each key, named in messages; may be empty.

    Raises:
        ValueError: if the image has other channels or non-finite values, or a label has another size or position than
            its image, or contains an undeclared value.
    """
    reader = VolumeReader()
    image, metadata = reader.read(folder / entry["image"])
    name = _name(entry, "image", sources)
    found = image.shape[3] if image.ndim == 4 else 1
    if found != channels:
        raise ValueError(
            f"{name}: expected {channels} channel(s), found {found}; the download is not the official one."
        )
    if not np.isfinite(image).all():
        raise ValueError(f"{name}: expected finite values, found NaN or infinite ones; unpack the download again.")
    counts: dict[int, int] = {}
    for key in (key for key in LABEL_KEYS if key in entry):
        label, label_metadata = VolumeReader(labels=True).read(folder / entry[key])
        _check_place(label, label_metadata["affine"], image.shape[:3], metadata["affine"], _name(entry, key, sources))
        values = _check_values(label, labels, _name(entry, key, sources))
        counts = values if key == "label" else counts
    digest = hashlib.sha256(repr(image.shape).encode())
    digest.update(np.ascontiguousarray(image).tobytes())
    return Inspection(tuple(image.shape[:3]), counts, digest.hexdigest())


def repeated_images(
    entries: Sequence[Mapping[str, Any]], inspections: Sequence[Inspection]
) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Returns each entry whose image has the same pixels as an earlier one, paired with the earlier one."""
    first: dict[str, Mapping[str, Any]] = {}
    repeats = []
    for entry, inspection in zip(entries, inspections, strict=True):
        original = first.setdefault(inspection.pixels_sha256, entry)
        if original is not entry:
            repeats.append((entry, original))
    return repeats


def _check_place(
    label: np.ndarray, label_affine: np.ndarray, shape: tuple[int, ...], affine: np.ndarray, name: str
) -> None:
    if label.shape != shape:
        raise ValueError(
            f"{name}: expected a label in the size of its image, {shape}, found {label.shape}; pair the files that "
            "belong together, or unpack the download again."
        )
    if not same_grid(shape, affine, label_affine):
        distance = corner_distance(shape, label_affine, affine)
        raise ValueError(
            f"{name}: expected a label at the position of its image, found corners {distance:.3g} mm apart; correct "
            "the header of the label."
        )


def _check_values(label: np.ndarray, labels: Mapping[int, str], name: str) -> dict[int, int]:
    counts = {value: int(np.count_nonzero(label == value)) for value in labels}
    if sum(counts.values()) != label.size:
        extra = listed_values(label[~np.isin(label, list(labels))])
        raise ValueError(
            f"{name}: expected label values {sorted(labels)}, found {extra}; the download is not the official one."
        )
    return counts


def _name(entry: Mapping[str, Any], key: str, sources: Mapping[str, Path]) -> str:
    return f"{entry[key]} (from {sources[key]})" if key in sources else str(entry[key])

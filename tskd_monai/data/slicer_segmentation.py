"""Segmentations of 3D Slicer (`.seg.nrrd`): segments with names and codes, in layers where they overlap.

Source: https://slicer.readthedocs.io/en/latest/developer_guide/modules/segmentations.html
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from tskd_monai.data.grid import checked_affine, places_on
from tskd_monai.data.itk_file import ANY_ZLIB_HEADER, check_stream, compression_ratio
from tskd_monai.data.nrrd import SEGMENTATION_SUFFIX, nrrd_fields, volume_of
from tskd_monai.data.stored_volume import StoredVolume, refuse
from tskd_monai.data.structures import Structure
from tskd_monai.files.limits import check_held, check_voxel_count

LAYERS = "list"
"""Kind of the axis, the first of four, that runs over layers."""

TERMINOLOGY = "TerminologyEntry:"


@dataclass(frozen=True)
class Segment:
    """A segment by the header: its name, codes, layer, and value there."""

    name: str
    codes: tuple[str, ...]
    layer: int
    value: int


@dataclass(frozen=True)
class Segmentation:
    """A segmentation by its header: the volume of one layer, the number of layers, and the segments."""

    volume: StoredVolume
    layers: int
    segments: tuple[Segment, ...]


def read_segmentation(path: Path) -> Segmentation:
    """Returns a segmentation by its header.

    Raises:
        FileNotFoundError: if its data file is missing.
        ValueError: if the header is malformed, or does not state the value of a segment.
    """
    fields, pairs, end = nrrd_fields(path)
    layers = 1
    if fields["dimension"] == "4" and fields.get("kinds", "").split()[:1] == [LAYERS]:
        layers, fields = _without_layers(fields, path.name)
    return Segmentation(volume_of(path, fields, end), layers, _segments(pairs, layers, path.name))


def slicer_structures(path: Path, shape: tuple[int, ...], affine: np.ndarray) -> list[Structure]:
    """Returns the segments on the grid of their image; the file may hold only the part with segments.

    Args:
        path: path of the `.seg.nrrd` file.
        shape: voxels along the axes of the image.
        affine: affine of the image to RAS mm (4, 4).

    Raises:
        FileNotFoundError: if the data file of the segmentation is missing.
        ValueError: if the file is damaged; the function `mask` of a structure if it is not on the grid of the image.
    """
    found = read_segmentation(path)
    if len(found.volume.shape) != 3:
        refuse(path.name, "a segmentation of a volume", "one slice")
    own_affine = checked_affine(found.volume.affine, path.name)
    layers = _voxels(found)

    def mask(segment: Segment) -> np.ndarray:
        voxels = layers[segment.layer] == segment.value
        inside = np.zeros(shape, bool)
        inside[tuple(places_on(voxels, own_affine, shape, affine, path.name))] = True
        return inside

    return [Structure(one.name, one.codes, partial(mask, one)) for one in found.segments]


def is_slicer_segmentation(path: Path) -> bool:
    """Returns whether a path is a segmentation of 3D Slicer, by its suffix."""
    return path.name.lower().endswith(SEGMENTATION_SUFFIX)


def _without_layers(fields: Mapping[str, str], name: str) -> tuple[int, dict[str, str]]:
    """Returns the number of layers, and the fields of one layer."""
    first, _, sizes = fields["sizes"].partition(" ")
    directions = fields.get("spacedirections", "")
    if not first.isdecimal() or not directions.startswith("none"):
        refuse(name, "a number of layers and `none` as its direction", f"{first}, {directions}")
    described = {"dimension": "3", "sizes": sizes, "spacedirections": directions.removeprefix("none").strip()}
    return int(first), {**fields, **described, "kinds": fields["kinds"].partition(" ")[2]}


def _segments(pairs: Mapping[str, str], layers: int, name: str) -> tuple[Segment, ...]:
    numbers = sorted({int(match[1]) for key in pairs if (match := re.match(r"Segment(\d{1,6})_", key))})
    segments = []
    for number in numbers:
        key = f"Segment{number}_"
        if layers == 1 and f"{key}LabelValue" not in pairs:  # which voxels it has is not known
            continue
        # Before 2020, Slicer gave each segment a layer, with the value 1.
        layer, value = pairs.get(f"{key}Layer", str(number)), pairs.get(f"{key}LabelValue", "1")
        layer = "0" if layers == 1 else layer
        if not (layer.isdecimal() and value.isdecimal() and int(layer) < layers):
            refuse(name, f"the layer (of {layers}) and the value of segment {number}", f"{layer} and {value}")
        label = pairs.get(f"{key}Name") or pairs.get(f"{key}ID") or f"segment {number}"
        segments.append(Segment(label, _codes(pairs.get(f"{key}Tags", "")), int(layer), int(value)))
    places = [(segment.layer, segment.value) for segment in segments]
    if len(set(places)) < len(places):
        refuse(name, "a value for each segment", f"{len(places) - len(set(places))} repeated")
    return tuple(segments)


def _codes(tags: str) -> tuple[str, ...]:
    """Returns the codes of the type, from `TerminologyEntry:context~category~type~modifier~…`."""
    for tag in tags.split("|"):
        parts = tag.removeprefix(TERMINOLOGY).split("~")
        if tag.startswith(TERMINOLOGY) and len(parts) > 3:
            kind, modifier = (":".join(part.split("^")[:2]) for part in parts[2:4])
            if kind.strip(":"):
                return (kind, f"{kind}+{modifier}") if modifier.strip(":") else (kind,)
    return ()


def _voxels(found: Segmentation) -> np.ndarray:
    """Returns the voxels (layers, X, Y, Z), in the byte order of the file."""
    volume = found.volume
    # Layers are the fastest axis: for the checks, they are so many more voxels along the first one.
    flat = replace(volume, shape=(found.layers * volume.shape[0], *volume.shape[1:]))
    check_held(flat.voxel_bytes, flat.data.stat().st_size, compression_ratio(flat), flat.title)
    check_voxel_count(flat.voxel_count, flat.title)
    check_stream(flat)
    with volume.data.open("rb") as file:
        file.seek(max(volume.offset, 0))
        content = file.read()
    if volume.encoding == "deflate":
        content = zlib.decompress(content, ANY_ZLIB_HEADER)
    voxels = np.frombuffer(content[-flat.voxel_bytes :], volume.dtype)
    return voxels.reshape((found.layers, *volume.shape), order="F")

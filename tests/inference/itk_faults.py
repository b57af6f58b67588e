"""Rows of the fault matrix: what an NRRD or MetaImage file may hold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tests.data.itk_volumes import write_meta_image, write_nrrd_file
from tests.inference.fault_rows import EXACT, REFUSED, REPAIRED, Given, Make, Row
from tests.inference.phantom_scan import grid, scanned
from tskd_monai.data.itk_file import data_files

OBLIQUE = (10.0, -15.0, 20.0)


def _scan(
    name: str,
    fields: Mapping[str, str | None] | None = None,
    rotation: tuple[float, float, float] = (0.0, 0.0, 0.0),
    code: str = "PLS",
) -> Make:
    """Returns what writes the scan as the format of the name, with these fields of its header."""
    write = write_nrrd_file if name.endswith((".nrrd", ".nhdr")) else write_meta_image

    def make(folder: Path) -> Given:
        where = grid(code, rotation)
        path = write(folder / name, scanned(where).astype("<i2"), where.matrix, fields)
        return Given(path, where.matrix, where.shape)

    return make


def _in_space(space: str, signs: tuple[int, int, int]) -> Make:
    def make(folder: Path) -> Given:
        where = grid("LAS", OBLIQUE)
        vectors = [f"({','.join(map(repr, v))})" for v in (np.diag(signs) @ where.matrix[:3]).T.tolist()]
        fields = {"space": space, "space directions": " ".join(vectors[:3]), "space origin": vectors[3]}
        return _scan("scan.nrrd", fields, OBLIQUE, "LAS")(folder)

    return make


def _cut(name: str) -> Make:
    def make(folder: Path) -> Given:
        given = _scan(name)(folder)
        cut = next(iter(data_files(given.path)), given.path)
        cut.write_bytes(cut.read_bytes()[:-20])
        return given

    return make


def _without_data(folder: Path) -> Given:
    given = _scan("scan.mhd")(folder)
    (folder / "scan.zraw").unlink()
    return given


MANY = "30000 30000 30000"
ROWS = [
    Row(
        "NRRD, MetaImage, both with a data file too",
        EXACT,
        [_scan(f"scan{ending}") for ending in (".nrrd", ".nhdr", ".mha", ".mhd")],
    ),
    Row(
        "NRRD in RAS and LAS coordinates, oblique MetaImage",
        EXACT,
        [
            _in_space("right-anterior-superior", (1, 1, 1)),
            _in_space("left-anterior-superior", (-1, 1, 1)),
            _scan("scan.mha", None, OBLIQUE, "RIA"),
        ],
    ),
    Row(
        "NRRD that names no space",
        REPAIRED,
        [_scan("scan.nrrd", {"space": None, "space dimension": "3"})],
        "left/right are unknown",
    ),
    Row(
        "NRRD without space directions",
        REFUSED,
        [_scan("scan.nrrd", {"space directions": None})],
        "`space directions` or `spacings` in mm",
    ),
    Row(
        "NRRD of vectors",
        REFUSED,
        [_scan("scan.nrrd", {"kinds": "vector domain domain"})],
        "Expected one number per voxel",
    ),
    Row("MetaImage, 4D", REFUSED, [_scan("scan.mha", {"NDims": "4"})], "Expected one 3D volume"),
    Row(
        "MetaImage of three channels",
        REFUSED,
        [_scan("scan.mha", {"ElementNumberOfChannels": "3"})],
        "Expected 1 as ElementNumberOfChannels",
    ),
    Row(
        "NRRD and MetaImage cut short",
        REFUSED,
        [_cut("scan.mha"), _cut("scan.mhd"), _scan("scan.nrrd", {"sizes": "24 22 21"})],
        "the file is truncated or damaged",
    ),
    Row(
        "MetaImage whose data file is missing",
        REFUSED,
        [_without_data],
        "Expected the data file scan.zraw of scan.mhd beside it",
    ),
    Row(
        "NRRD and MetaImage headers claiming more voxels",
        REFUSED,
        [_scan("scan.nrrd", {"sizes": MANY}), _scan("scan.mhd", {"DimSize": MANY})],
        "its header states",
    ),
]

"""Segmentations of Slicer: segments by name, in layers where they overlap, on a part of the image's grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.data.itk_volumes import write_nrrd_file
from tskd_monai.data.slicer_segmentation import read_segmentation, slicer_structures

AFFINE = np.array([[0, -1.5, 0, 20.0], [-0.8, 0, 0, -11.0], [0, 0, 3, 7.0], [0, 0, 0, 1]])
SHAPE = (9, 8, 6)
TERMS = (
    "TerminologyEntry:Segmentation category and type - 3D Slicer General Anatomy list"
    "~SCT^123037004^Anatomical Structure~SCT^64033007^Kidney~SCT^24028007^Right~list~^^~^^|Segmentation.Status:done"
)
SEGMENTS = {
    "Segment0_ID:": "=Segment_1",
    "Segment0_LabelValue:": "=2",
    "Segment0_Layer:": "=0",
    "Segment1_Name:": "=right kidney",
    "Segment1_LabelValue:": "=1",
    "Segment1_Layer:": "=1",
    "Segment1_Tags:": f"={TERMS}",
}


def write(path: Path, layers: np.ndarray, affine: np.ndarray = AFFINE, **fields: str) -> Path:
    """Writes layers (n, X, Y, Z) with the segments `liver` (value 2 of layer 0) and `right kidney` (1 of layer 1)."""
    vectors = " ".join(f"({','.join(map(repr, v))})" for v in (np.diag([-1, -1, 1]) @ affine[:3, :3]).T.tolist())
    geometry = {"kinds": "list domain domain domain", "space directions": f"none {vectors}"}
    write_nrrd_file(path, layers, affine, {**geometry, **SEGMENTS, **fields})
    path.write_bytes(path.read_bytes().replace(b":: =", b":="))
    return path


@pytest.fixture
def layers() -> np.ndarray:
    """Returns two layers that overlap."""
    found = (np.random.default_rng(0).random((2, *SHAPE)) < 0.3).astype(np.uint8)
    found[0] *= 2
    return found


@pytest.mark.parametrize("encoding", ["gzip", "raw"])
def test_overlapping_segments_are_read_by_name(tmp_path, layers, encoding) -> None:
    path = write(tmp_path / "a.seg.nrrd", layers, encoding=encoding)
    liver, kidney = slicer_structures(path, SHAPE, AFFINE)
    assert (liver.name, kidney.name) == ("liver", "right kidney")
    assert liver.codes == () and kidney.codes == ("SCT:64033007", "SCT:64033007+SCT:24028007")
    np.testing.assert_array_equal(liver.mask(), layers[0] == 2)
    np.testing.assert_array_equal(kidney.mask(), layers[1] == 1)


def test_a_part_of_the_grid_in_another_order_of_axes_is_placed(tmp_path, layers) -> None:
    """Slicer saves only the extent of the segments if it is asked to."""
    part = layers[:, 2:7, 1:5, 3:].transpose(0, 3, 1, 2)[:, :, ::-1]
    turned = AFFINE @ np.array([[0, -1, 0, 6], [0, 0, 1, 1], [1, 0, 0, 3], [0, 0, 0, 1.0]])
    path = write(tmp_path / "a.seg.nrrd", np.ascontiguousarray(part), turned)
    expected = np.zeros(SHAPE, bool)
    expected[2:7, 1:5, 3:] = layers[0, 2:7, 1:5, 3:] == 2
    np.testing.assert_array_equal(slicer_structures(path, SHAPE, AFFINE)[0].mask(), expected)


def test_other_grids_are_refused(tmp_path, layers) -> None:
    half = AFFINE @ np.array([[1, 0, 0, 0.5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    path = write(tmp_path / "half.seg.nrrd", layers, half)
    with pytest.raises(ValueError, match="on the voxels of its image in half.seg.nrrd, found one between them"):
        slicer_structures(path, SHAPE, AFFINE)[0].mask()
    with pytest.raises(ValueError, match="within its image in half.seg.nrrd, found voxels outside"):
        slicer_structures(path, (3, 3, 3), half)[0].mask()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"Segment1_Layer:": "=5"}, "the layer .of 2. and the value of segment 1 in a.seg.nrrd, found 5 and 1"),
        ({"Segment1_LabelValue:": "=2", "Segment1_Layer:": "=0"}, "a value for each segment in a.seg.nrrd"),
    ],
)
def test_damaged_headers_are_refused(tmp_path, layers, fields, message) -> None:
    with pytest.raises(ValueError, match=message):
        read_segmentation(write(tmp_path / "a.seg.nrrd", layers, **fields))


def test_truncated_voxels_are_refused(tmp_path, layers) -> None:
    path = write(tmp_path / "a.seg.nrrd", layers)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match="a.seg.nrrd"):
        slicer_structures(path, SHAPE, AFFINE)

"""A label map on the network's grid is mapped to the correct voxels of the scan, in any orientation."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data import MetaTensor

from tskd_monai.inference.image_grid import image_grid, linear_labels, nearest_labels

AFFINE = np.array([[0.0, -1.5, 0, 20], [2.0, 0, 0, -7], [0, 0, 4.0, 3], [0, 0, 0, 1]])
SHAPES = st.tuples(*[st.integers(1, 5)] * 3)
CLASSES = 4


@st.composite
def scans(draw: st.DrawFn) -> tuple[np.ndarray, tuple[int, ...], tuple[int, ...]]:
    """Returns the mapping of a scan's indices to the network's (rows, columns, slices), and both shapes.

    The network sees the scan's axes permuted, some reversed, rows and columns finer by an integer factor.
    """
    shape = draw(SHAPES)
    order = draw(st.sampled_from(list(permutations(range(3)))))
    turned = draw(st.tuples(*[st.booleans()] * 3))
    finer = (*draw(st.tuples(st.integers(1, 3), st.integers(1, 3))), 1)
    mapping = np.zeros((4, 4))
    mapping[3, 3] = 1
    for axis, (source, back, scale) in enumerate(zip(order, turned, finer, strict=True)):
        mapping[axis, source] = -scale if back else scale
        mapping[axis, 3] = scale * (shape[source] - 1) if back else 0
    network = tuple((shape[source] - 1) * scale + 1 for source, scale in zip(order, finer, strict=True))
    return mapping, shape, network


@given(scan=scans(), seed=st.integers(0, 99), linear=st.booleans())
def test_each_voxel_gets_the_label_of_its_position(
    scan: tuple[np.ndarray, tuple[int, ...], tuple[int, ...]], seed: int, linear: bool
) -> None:
    mapping, shape, network = scan
    meta = {"original_affine": AFFINE, "spatial_shape": np.array(shape)}
    grid = image_grid(MetaTensor(torch.zeros(1, *network), affine=AFFINE @ np.linalg.inv(mapping), meta=meta))
    classes = torch.from_numpy(np.random.default_rng(seed).integers(0, CLASSES, network))
    logits = torch.nn.functional.one_hot(classes, CLASSES).permute(2, 3, 0, 1).float()  # (slices, K, rows, columns)
    values = torch.tensor([0, 63, 200, 7], dtype=torch.uint8)
    label_map = grid.empty_label_map(torch.uint8)
    labels = linear_labels if linear else nearest_labels
    label_map[grid.slices] = labels(logits, grid.rows, grid.columns, values)
    found = grid.to_image_axes(label_map)
    assert tuple(found.shape) == shape
    for index in np.ndindex(*shape):
        row, column, depth = np.rint(mapping @ [*index, 1])[:3].astype(int)
        assert found[index] == values[classes[row, column, depth]]

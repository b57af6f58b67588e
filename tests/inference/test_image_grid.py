from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch.nn.functional import interpolate

from tskd_monai.inference.image_grid import image_grid, linear_labels, nearest_labels

AFFINE = np.diag([2.0, 3.0, 5.0, 1.0])


def preprocessed(to_network: np.ndarray, shape: tuple[int, ...], image_shape: tuple[int, ...]) -> MetaTensor:
    """Returns an image (1, H, W, D) whose voxels were mapped to the network's grid by an index mapping."""
    meta = {"original_affine": AFFINE, "spatial_shape": np.array(image_shape)}
    return MetaTensor(torch.zeros(1, *shape), affine=AFFINE @ np.linalg.inv(to_network), meta=meta)


def dense_linear(logits: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Returns the classes of logits that are interpolated everywhere."""
    height, width = logits.shape[-2:]
    y = 2 * rows.clamp(0, height - 1) / (height - 1) - 1
    x = 2 * columns.clamp(0, width - 1) / (width - 1) - 1
    positions = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).expand(len(logits), -1, -1, -1)
    return torch.nn.functional.grid_sample(logits, positions, align_corners=True).argmax(dim=1)


def test_axes_directions_and_scale_are_found() -> None:
    # rows run along the image's third axis at half its steps, columns back along the first, slices along the second
    to_network = np.array([[0, 0, 0.5, 0.25], [-1, 0, 0, 5], [0, -1, 0, 6], [0, 0, 0, 1]], dtype=float)
    grid = image_grid(preprocessed(to_network, (4, 6, 7), (6, 7, 8)))
    assert grid.axes == (1, 2, 0)
    assert grid.slices.tolist() == [6, 5, 4, 3, 2, 1, 0]
    assert grid.rows.tolist() == [0.25 + 0.5 * index for index in range(8)]
    assert grid.columns.tolist() == [5, 4, 3, 2, 1, 0]
    label_map = grid.empty_label_map(torch.uint8)
    assert label_map.shape == (7, 8, 6)
    label_map[1, 2, 3] = 9
    assert grid.to_image_axes(label_map).nonzero().tolist() == [[3, 1, 2]]


@pytest.mark.parametrize("entry", [(0, 1, 0.1), (2, 2, 0.5), (2, 3, 0.4)], ids=["turned", "resampled", "between"])
def test_other_grids_are_refused(entry: tuple[int, int, float]) -> None:
    to_network = np.eye(4)
    to_network[entry[0], entry[1]] = entry[2]
    with pytest.raises(ValueError, match="but for order, direction and spacing in the plane"):
        image_grid(preprocessed(to_network, (4, 6, 7), (4, 6, 7)))


def test_slices_that_are_missing_are_refused() -> None:
    with pytest.raises(ValueError, match=r"the image's \(4, 6, 7\) voxels to be the network's \(4, 6, 5\)"):
        image_grid(preprocessed(np.eye(4), (4, 6, 5), (4, 6, 7)))


def test_image_without_metadata_is_refused() -> None:
    with pytest.raises(TypeError, match="with original_affine and spatial_shape, found Tensor"):
        image_grid(torch.zeros(1, 4, 4, 4))


@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize("scale", [0.37, 0.5, 1.6])
def test_linear_is_the_argmax_of_interpolated_logits(smooth: bool, scale: float) -> None:
    logits = torch.randn(3, 5, 12, 17, generator=torch.Generator().manual_seed(0))
    if smooth:  # most cells then have one class
        logits = interpolate(logits[..., :4, :5], (12, 17), mode="bilinear")
    rows, columns = torch.arange(0, 13, scale) - 0.4, torch.arange(0, 18, scale) - 0.3
    expected = dense_linear(logits, rows, columns)
    found = linear_labels(logits, rows, columns, torch.arange(logits.shape[1]))
    assert found.shape == expected.shape
    # float32 decides ties
    assert (found != expected).sum() <= 2


def test_both_give_the_classes_at_the_networks_own_pixels() -> None:
    logits = torch.randn(2, 4, 9, 8)
    rows, columns = torch.arange(9.0), torch.arange(7.0, -1.0, -1.0)
    for labels in (linear_labels, nearest_labels):
        found = labels(logits, rows, columns, torch.tensor([0, 200, 7, 9], dtype=torch.uint8))
        assert found.dtype == torch.uint8
        assert torch.equal(found.long(), torch.tensor([0, 200, 7, 9])[logits.argmax(dim=1).flip(2)])


def test_one_row_or_column_is_enough() -> None:
    logits = torch.randn(1, 3, 1, 6)
    expected = logits.argmax(dim=1).expand(1, 4, 6)
    for labels in (linear_labels, nearest_labels):
        assert torch.equal(labels(logits, torch.zeros(4), torch.arange(6.0), torch.arange(3)), expected)

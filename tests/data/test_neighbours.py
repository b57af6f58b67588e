"""Neighbouring slices as channels: their order, the ends of a volume, and what the task says of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image

from tests.inference.phantom_scan import SPACING
from tskd_monai.data.neighbours import centre_slice, neighbour_indices, with_neighbours
from tskd_monai.data.slices import PreparedImageDataset, SliceDataset
from tskd_monai.data.task import load_task, save_task
from tskd_monai.transforms.pipelines import preprocessing

DEPTH = 5


def _volume(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Two channels, whose voxels are the slice's index and that plus 100; label 1 everywhere."""
    index = torch.arange(entry.get("depth", DEPTH), dtype=torch.float32).expand(1, 3, 4, -1)
    return {"image": MetaTensor(torch.cat([index, index + 100])), "label": torch.ones_like(index)}


def _shown(image: torch.Tensor) -> list[float]:
    """Returns the value of each channel, which is the same in all pixels."""
    assert all(len(channel.unique()) == 1 for channel in image)
    return [channel.unique().item() for channel in image]


def test_the_last_slice_is_repeated_beyond_an_end() -> None:
    assert [neighbour_indices(index, 3, 2) for index in range(3)] == [[0, 0, 0, 1, 2], [0, 0, 1, 2, 2], [0, 1, 2, 2, 2]]
    assert neighbour_indices(0, 1, 1) == [0, 0, 0]
    assert neighbour_indices(4, 9, 0) == [4]


@pytest.mark.parametrize("neighbours", [0, 1, 2])
def test_every_way_to_stack_slices_gives_the_same_channels(neighbours: int) -> None:
    volume = torch.rand(2, 3, 4, DEPTH, generator=torch.Generator().manual_seed(0))
    by_hand = torch.stack(
        [
            torch.cat(
                [volume[..., max(0, min(DEPTH - 1, other))] for other in range(i - neighbours, i + neighbours + 1)]
            )
            for i in range(DEPTH)
        ]
    )
    whole = with_neighbours(volume, neighbours).movedim(-1, 0)
    batches = [with_neighbours(volume, neighbours, range(start, min(start + 2, DEPTH))) for start in range(0, DEPTH, 2)]
    of_batch = with_neighbours(volume[None], neighbours)[0].movedim(-1, 0)
    dataset = SliceDataset([{}], lambda _: {"image": volume}, keys=("image",), neighbours=neighbours)
    items = torch.stack([dataset[index]["image"] for index in range(DEPTH)])
    for found in (whole, torch.cat(batches, dim=-1).movedim(-1, 0), of_batch, items):
        assert torch.equal(found, by_hand)
    assert torch.equal(centre_slice(by_hand, 2), volume.movedim(-1, 0))


def test_a_labelled_slice_has_the_unlabelled_slices_of_its_volume_as_neighbours() -> None:
    dataset = SliceDataset([{"slices": [3, 0]}, {"depth": 1}], _volume, neighbours=1)
    found = [_shown(dataset[index]["image"]) for index in range(len(dataset))]
    assert found == [[2, 102, 3, 103, 4, 104], [0, 100, 0, 100, 1, 101], [0, 100] * 3]
    assert [item["slice"] for item in dataset] == [3, 0, 0]
    assert [_shown(image) for image in dataset.arrays("image")] == [[3, 103], [0, 100], [0, 100]]
    assert dataset[0]["label"].shape == (1, 3, 4) and dataset.classes_present() == [{1}] * 3


def test_a_volume_is_held_once() -> None:
    dataset = SliceDataset([{}], _volume, neighbours=2)
    held = {tensor.untyped_storage().data_ptr() for stack in dataset._stacks for tensor in stack}
    assert held == {image.untyped_storage().data_ptr() for image in dataset.arrays("image")}
    assert len(held) == DEPTH


def test_a_synthetic_image_is_its_own_neighbour(tmp_path: Path) -> None:
    Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4)).save(tmp_path / "one.png")
    dataset = PreparedImageDataset([{"image": str(tmp_path / "one.png")}], neighbours=1)
    image = dataset[0]["image"]
    assert image.shape == (3, 3, 4) and torch.equal(image, dataset.arrays("image")[0].expand(3, -1, -1))


@pytest.mark.parametrize("stored", ["PLS", "RAS", "SPL", "ASR"])
def test_neighbours_lie_along_the_tasks_slice_axis_however_the_file_is_stored(
    tmp_path: Path, make_task: Any, stored: str
) -> None:
    heights = np.broadcast_to(np.arange(6, dtype=np.float32) * 10, (5, 4, 6)).copy()
    image = nib.Nifti1Image(heights, np.diag([*SPACING, 1.0]))  # RAS: the third axis goes up
    codes = nib.orientations.axcodes2ornt(tuple(stored))
    image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(image.affine), codes)).to_filename(
        tmp_path / "volume.nii"
    )
    task = make_task(pixdim=SPACING[:2], neighbours=1)
    volume = preprocessing(task)({"image": str(tmp_path / "volume.nii")})["image"].as_tensor()
    stacks = with_neighbours(volume, 1)[:, -1, -1].T
    steps = stacks.diff(dim=1)
    step = steps[2, 0]
    assert step > 0.1  # below, the slice, above
    expected = torch.full((6, 2), float(step))
    expected[0, 0] = expected[-1, 1] = 0
    torch.testing.assert_close(steps, expected, atol=1e-5, rtol=0)


def test_a_teacher_and_its_targets_stay_those_of_single_slices(tmp_path: Path, make_task: Any) -> None:
    tasks = [make_task(neighbours=number) for number in range(3)]
    assert len({task.hash for task in tasks}) == 1 and tasks[0].student_hash == tasks[0].hash
    assert len({task.student_hash for task in tasks}) == 3
    assert [task.student_channels for task in tasks] == [1, 3, 5]
    assert [task.channels for task in tasks] == [1, 1, 1]
    save_task(tasks[2], tmp_path / "task.json")
    assert load_task(tmp_path / "task.json") == tasks[2]


@pytest.mark.parametrize("neighbours", [-1, 3, True, 1.0, "1"])
def test_a_number_of_neighbours_out_of_range_is_refused(make_task: Any, neighbours: Any) -> None:
    with pytest.raises(ValueError, match="expected a number of slices from 0 to 2 in `neighbours`"):
        make_task(neighbours=neighbours)


def test_single_images_have_no_neighbours(make_task: Any) -> None:
    with pytest.raises(ValueError, match="expected 0 for single 2D images, which have no neighbouring slices"):
        make_task(axcodes=None, neighbours=1)

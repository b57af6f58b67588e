from __future__ import annotations

import torch
from monai.data import MetaTensor

from tskd_monai.transforms.labels import KeepLargestComponentsd

AFFINE = torch.tensor([[-1.5, 0, 0, 80], [0, 1.5, 0, -60], [0, 0, 7, 10], [0, 0, 0, 1]], dtype=torch.float64)


def test_smaller_components_of_named_labels_become_background() -> None:
    label = torch.zeros(1, 8, 9, 5, dtype=torch.uint8)
    label[0, 1:4, 1:4, 1:3] = 200
    label[0, 4, 4, 3] = 200  # touches a corner of the larger one
    label[0, 6, 7, 4] = 200
    label[0, 6, 1, 0] = label[0, 1, 7, 0] = 5
    expected = label.clone()
    expected[0, 6, 7, 4] = 0
    came_in = label.clone()
    # 9 does not occur.
    found = KeepLargestComponentsd("pred", (200, 9))({"pred": MetaTensor(label, affine=AFFINE)})["pred"]
    assert torch.equal(found.as_tensor(), expected) and torch.equal(found.affine, AFFINE)
    assert torch.equal(label, came_in)

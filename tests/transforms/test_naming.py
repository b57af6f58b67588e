from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from tskd_monai.transforms.fitness import NameOutputd


def test_name_of_the_item_goes_into_the_images_metadata() -> None:
    image = MetaTensor(torch.zeros(1, 2, 2, 1), meta={"filename_or_obj": "scan.nii"})
    named = NameOutputd("image")({"image": image, "name": 7})["image"]
    assert named.meta["output_name"] == "7"
    assert named.meta["filename_or_obj"] == "scan.nii"
    assert named.shape == (1, 2, 2, 1)


def test_item_without_a_name_is_left_as_it_is() -> None:
    image = MetaTensor(torch.zeros(1, 2, 2, 1))
    before = dict(image.meta)
    assert NameOutputd("image")({"image": image})["image"].meta == before


def test_item_without_the_image_is_refused() -> None:
    with pytest.raises(KeyError, match="image"):
        NameOutputd("image")({"name": "a"})

"""The same values as MONAI's `Compose` without metadata, which other transforms keep."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor, get_track_meta
from monai.transforms import Compose, Lambdad

from tskd_monai.transforms.pipelines import augmentation
from tskd_monai.transforms.plain_compose import PlainCompose


def test_values_are_those_of_compose_and_tensors_are_plain() -> None:
    image = torch.rand(1, 24, 32, generator=torch.Generator().manual_seed(0))
    item = {"image": MetaTensor(image), "label": MetaTensor((image > 0.5).float())}
    plain = augmentation()
    tracked = Compose(plain.transforms)
    for seed in range(6):
        ours, monais = (transform.set_random_state(seed)(dict(item)) for transform in (plain, tracked))
        for key in item:
            assert isinstance(monais[key], MetaTensor) and type(ours[key]) is torch.Tensor
            assert torch.equal(ours[key], monais[key].as_tensor())


def test_metadata_is_tracked_again_after_an_error() -> None:
    def fail(_: torch.Tensor) -> torch.Tensor:
        raise ValueError("no image")

    with pytest.raises((RuntimeError, ValueError)):
        PlainCompose([Lambdad("image", fail)])({"image": torch.zeros(1, 4, 4)})
    assert get_track_meta()

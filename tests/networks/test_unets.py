from __future__ import annotations

import pytest

from tskd_monai.networks.unets import PlannedUNet, count_halvings


@pytest.mark.parametrize(
    ("image_size", "halvings"),
    [((128, 128), 5), ((256, 256), 6), ((112, 112), 4), ((96, 64), 4), ((48, 48), 3), ((32, 512), 3), ((144, 144), 4)],
)
def test_sides_are_halved_down_to_four_pixels(image_size: tuple[int, int], halvings: int) -> None:
    assert count_halvings(image_size) == halvings


def test_channels_double_from_32_to_512() -> None:
    assert list(PlannedUNet().build(1, 2, (256, 256)).filters) == [32, 64, 128, 256, 512, 512, 512]


@pytest.mark.parametrize("image_size", [(16, 64), (36, 64)])
def test_too_small_or_odd_images_are_refused(image_size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="multiples of 8 from 32 pixels for planned_unet, found"):
        PlannedUNet().build(1, 2, image_size)

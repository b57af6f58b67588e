from __future__ import annotations

import pytest
import torch

from tskd_monai.synthesis.diffusion import (
    build_noise_scheduler,
    build_unet,
    condition_of,
    label_map_condition,
    patch_size_of,
    position_condition,
    predict,
)


@pytest.mark.parametrize(
    ("image_size", "channels", "blocks", "patch_size"),
    [((16, 16), 1, (8, 16), 1), ((16, 32), 3, (8, 16), 2), ((32, 32), 1, (12, 20, 28), 4), ((16, 16), 1, (5, 7), 1)],
)
def test_unet_keeps_the_shape(
    image_size: tuple[int, int], channels: int, blocks: tuple[int, ...], patch_size: int
) -> None:
    unet = build_unet(image_size, channels, blocks, patch_size=patch_size)
    shape = (2, channels * patch_size**2, image_size[0] // patch_size, image_size[1] // patch_size)
    predicted = predict(unet, torch.randn(shape), torch.tensor([0, 999]), {})
    assert predicted.shape == shape
    assert patch_size_of(unet, (channels, *image_size)) == patch_size


def test_attention_is_at_the_lowest_resolution_only() -> None:
    unet = build_unet((32, 32), 1, (8, 16, 32))
    attention = {name.split(".attentions")[0] for name, _ in unet.named_parameters() if "attentions" in name}
    assert attention == {"down_blocks.2", "mid_block", "up_blocks.0"}


def test_image_size_that_cannot_be_halved_is_refused() -> None:
    with pytest.raises(ValueError, match=r"multiples of 8 \(patch_size 2, 3 levels\), found 16x20"):
        build_unet((16, 20), 1, (8, 8, 8), patch_size=2)


@pytest.mark.parametrize(("side", "levels"), [(96, 4), (48, 3), (20, 1)])
def test_planned_levels_fit_the_image_size(side: int, levels: int) -> None:
    unet = build_unet((side, side), 1, patch_size=4)
    assert tuple(unet.config.block_out_channels) == (32, 64, 128, 128)[-levels:]


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 32, 32), (1, 16, 32)])
def test_unet_of_other_images_is_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="found one whose output is"):
        patch_size_of(build_unet((16, 16), 1, (8, 8)), shape)


def test_cosine_and_zero_snr_schedules_end_in_noise() -> None:
    assert float(build_noise_scheduler().alphas_cumprod[-1]) < 1e-8
    linear = build_noise_scheduler(beta_schedule="linear", zero_terminal_snr=True)
    assert float(linear.alphas_cumprod[-1]) == 0


def test_impossible_schedules_are_refused() -> None:
    with pytest.raises(ValueError, match="found 'velocity'"):
        build_noise_scheduler("velocity")
    with pytest.raises(ValueError, match="found epsilon"):
        build_noise_scheduler("epsilon", zero_terminal_snr=True)


def test_a_position_changes_the_prediction() -> None:
    unet = build_unet((16, 16), 1, (8, 8), patch_size=2, condition="slice_position")
    noisy, timesteps = torch.randn(1, 4, 8, 8).expand(2, -1, -1, -1), torch.tensor([500, 500])
    same = predict(unet, noisy, timesteps, position_condition(torch.tensor([0.2, 0.2])))
    other = predict(unet, noisy, timesteps, position_condition(torch.tensor([0.2, 0.8])))
    assert torch.equal(same[0], same[1])
    assert not torch.allclose(other[0], other[1])
    assert condition_of(unet) == "slice_position"
    assert patch_size_of(unet, (1, 16, 16)) == 2


def test_a_label_map_changes_the_prediction_where_it_differs() -> None:
    unet = build_unet((16, 16), 1, (8, 8), patch_size=2, condition="label_map", num_classes=3)
    labels = torch.zeros(2, 1, 16, 16, dtype=torch.uint8)
    labels[1, :, 4:8] = 2
    conditions = label_map_condition(labels, 3, patch_size=2)
    assert conditions["label_map"].shape == (2, 2 * 4, 8, 8)
    assert float(conditions["label_map"].sum()) == 4 * 16
    noisy, timesteps = torch.randn(1, 4, 8, 8).expand(2, -1, -1, -1), torch.tensor([500, 500])
    predicted = predict(unet, noisy, timesteps, conditions)
    assert predicted.shape == noisy.shape
    assert not torch.allclose(predicted[0], predicted[1])
    assert condition_of(unet) == "label_map"
    assert patch_size_of(unet, (1, 16, 16)) == 2


def test_unknown_conditions_are_refused() -> None:
    with pytest.raises(ValueError, match="found 'text'"):
        build_unet((16, 16), 1, (8, 8), condition="text")
    with pytest.raises(ValueError, match="num_classes of at least 2 with condition label_map, found None"):
        build_unet((16, 16), 1, (8, 8), condition="label_map")

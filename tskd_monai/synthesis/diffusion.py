"""The diffusion model: network, noise schedule and conditions.

The network is a `diffusers.UNet2DModel` on images in [-1, 1]. With `patch_size` p > 1 an image (C, H, W) enters it as
(C·p², H/p, W/p), a rearrangement of pixels (pixel unshuffle). A step then costs about p² times less, which makes
training on a CPU feasible. Noise stays independent between pixels, so every formula holds unchanged.

The network may be conditioned on the position of a slice along the body (embedded like the noise level) or on a label
map (one-hot, concatenated to the noisy image).

Sources:
    Ho et al. 2020, arXiv 2006.11239 (DDPM); Nichol and Dhariwal 2021, arXiv 2102.09672 (cosine schedule);
    Salimans and Ho 2022, arXiv 2202.00512 (v-prediction); Lin et al. 2023, arXiv 2305.08891 (zero terminal SNR);
    Lipman et al. 2022, arXiv 2210.02747 (flow matching).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler, UNet2DModel
from monai.networks.utils import one_hot
from torch.nn.functional import pixel_unshuffle

FLOW = "flow"
PREDICTION_TYPES = ("sample", "v_prediction", "epsilon", FLOW)
CONDITIONS = ("none", "slice_position", "label_map")
BLOCK_OUT_CHANNELS = (32, 64, 128, 128)
MAX_NORM_GROUPS = 8  # with one channel per group, group norm would erase each channel's mean
MAX_HEAD_CHANNELS = 32
POSITION_SCALE = 1000.0  # slice positions in [0, 1] are embedded with the frequencies made for 1000 noise levels

NoiseScheduler: TypeAlias = DDPMScheduler | FlowMatchEulerDiscreteScheduler


def build_unet(
    image_size: Sequence[int],
    channels: int,
    block_out_channels: Sequence[int] | None = None,
    layers_per_block: int = 1,
    patch_size: int = 1,
    condition: str = "none",
    num_classes: int | None = None,
) -> UNet2DModel:
    """Returns an untrained diffusion U-Net with self-attention at its lowest resolution only.

    Args:
        image_size: (H, W) in pixels; multiples of patch_size · 2^(levels - 1).
        channels: image channels, 1 or 3.
        block_out_channels: features of each level, from full resolution down; each level halves the resolution. None:
            32, 64, 128, 128, or the last of these that the image size allows.
        layers_per_block: residual blocks per level on the way down; one more on the way up.
        patch_size: side of the pixel blocks that become channels; 1 keeps the pixels.
        condition: "none", "slice_position" or "label_map".
        num_classes: number of classes of the label maps, background included.

    Raises:
        ValueError: when the sizes are inconsistent, or the condition is unknown.
    """
    check_condition(condition, num_classes)
    height, width = image_size
    if block_out_channels is None:
        block_out_channels = _planned_channels(image_size, patch_size)
    factor = patch_size * 2 ** (len(block_out_channels) - 1)
    if height % factor or width % factor:
        raise ValueError(
            f"Expected image_size to be multiples of {factor} (patch_size {patch_size}, {len(block_out_channels)} "
            f"levels), found {height}x{width}; choose fewer block_out_channels, another patch_size or image_size."
        )
    plain = len(block_out_channels) - 1
    label_channels = num_classes - 1 if condition == "label_map" and num_classes else 0
    return UNet2DModel(
        sample_size=(height // patch_size, width // patch_size),
        in_channels=(channels + label_channels) * patch_size**2,
        out_channels=channels * patch_size**2,
        block_out_channels=tuple(block_out_channels),
        layers_per_block=layers_per_block,
        down_block_types=("DownBlock2D",) * plain + ("AttnDownBlock2D",),
        up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * plain,
        attention_head_dim=math.gcd(block_out_channels[-1], MAX_HEAD_CHANNELS),
        norm_num_groups=math.gcd(*block_out_channels, MAX_NORM_GROUPS),
        class_embed_type="timestep" if condition == "slice_position" else None,
        resnet_time_scale_shift="scale_shift",
    )


def _planned_channels(image_size: Sequence[int], patch_size: int) -> Sequence[int]:
    channels: Sequence[int] = BLOCK_OUT_CHANNELS
    while len(channels) > 1 and any(side % (patch_size * 2 ** (len(channels) - 1)) for side in image_size):
        channels = channels[1:]
    return channels


def check_condition(condition: str, num_classes: int | None) -> None:
    """Raises ValueError when the condition is unknown, or when label maps lack a number of classes."""
    if condition not in CONDITIONS:
        raise ValueError(f"Expected condition to be one of {CONDITIONS}, found {condition!r}.")
    if condition == "label_map" and (num_classes is None or num_classes < 2):
        raise ValueError(f"Expected num_classes of at least 2 with condition label_map, found {num_classes}.")


def condition_of(unet: UNet2DModel) -> str:
    """Returns the condition that a U-Net from `build_unet` was built for."""
    if unet.config.class_embed_type == "timestep":
        return "slice_position"
    return "none" if unet.config.in_channels == unet.config.out_channels else "label_map"


def patch_size_of(unet: UNet2DModel, image_shape: Sequence[int]) -> int:
    """Returns the patch size of a U-Net for images of a given shape.

    Args:
        unet: U-Net from `build_unet`.
        image_shape: (C, H, W).

    Raises:
        ValueError: when the U-Net was built for images of another shape.
    """
    channels, height, width = image_shape
    patch_size = math.isqrt(unet.config.out_channels // channels)
    expected = (channels * patch_size**2, height // max(patch_size, 1), width // max(patch_size, 1))
    found = (unet.config.out_channels, *unet.config.sample_size)
    if expected != found:
        raise ValueError(
            f"Expected a diffusion U-Net for images of shape (C, H, W) = {tuple(image_shape)}, found one whose "
            f"output is {found}; take the image size and channels it was trained with."
        )
    return patch_size


def build_noise_scheduler(
    prediction_type: str = "v_prediction",
    num_train_timesteps: int = 1000,
    beta_schedule: str = "squaredcos_cap_v2",
    zero_terminal_snr: bool = False,
) -> NoiseScheduler:
    """Returns the noise schedule for training; samplers are derived from its configuration.

    Args:
        prediction_type: target of the network: "v_prediction", "sample", "epsilon", or "flow", the velocity from image
            to noise along a straight line, which has its own schedule.
        num_train_timesteps: number of noise levels.
        beta_schedule: "squaredcos_cap_v2" (cosine; its last level is noise to within 5e-5), "linear" or
            "scaled_linear"; ignored with "flow".
        zero_terminal_snr: whether the betas are rescaled so that the last level is pure noise. Linear schedules need
            it; otherwise samples keep the mean brightness of the training images. "flow" has it by construction.

    Raises:
        ValueError: when the prediction type is unknown, or undefined with zero terminal SNR.
    """
    if prediction_type not in PREDICTION_TYPES:
        raise ValueError(f"Expected prediction_type to be one of {PREDICTION_TYPES}, found {prediction_type!r}.")
    if prediction_type == FLOW:
        return FlowMatchEulerDiscreteScheduler(num_train_timesteps=num_train_timesteps)
    if zero_terminal_snr and prediction_type == "epsilon":
        raise ValueError(
            "Expected prediction_type v_prediction or sample with zero_terminal_snr, found epsilon: "
            "an image cannot be recovered from pure noise and its prediction."
        )
    return DDPMScheduler(
        num_train_timesteps=num_train_timesteps,
        beta_schedule=beta_schedule,
        prediction_type=prediction_type,
        rescale_betas_zero_snr=zero_terminal_snr,
        timestep_spacing="trailing",
    )


def position_condition(positions: torch.Tensor) -> dict[str, torch.Tensor]:
    """Returns the conditioning inputs of the network for positions along the body, (B,) in [0, 1]."""
    return {"class_labels": positions.float() * POSITION_SCALE}


def label_map_condition(labels: torch.Tensor, num_classes: int, patch_size: int) -> dict[str, torch.Tensor]:
    """Returns the conditioning inputs of the network for label maps.

    Args:
        labels: class indices (B, 1, H, W).
        num_classes: number of classes; the background has no channel.
        patch_size: patch size of the U-Net.

    Raises:
        ValueError: when a case is partly labelled.
    """
    require_complete(labels)
    return {"label_map": pixel_unshuffle(one_hot(labels, num_classes)[:, 1:].float(), patch_size)}


def require_complete(labels: torch.Tensor) -> None:
    """Raises ValueError when voxels of label maps are unknown, as in a partly labelled case."""
    if bool((labels < 0).any()):
        raise ValueError(
            "Expected completely labelled images for condition label_map, found a case with structures that were not "
            "drawn, or with voxels to ignore; choose another --condition, or leave the case out."
        )


def predict(
    network: Callable[..., Any], noisy: torch.Tensor, timesteps: torch.Tensor, conditions: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    """Returns the network's prediction, shaped as `noisy`.

    Args:
        network: the U-Net, or a wrapper of it such as DDP.
        noisy: images (B, C·p², H/p, W/p).
        timesteps: one timestep, or (B,).
        conditions: conditioning inputs from `position_condition` or `label_map_condition`; {} for none.
    """
    inputs = torch.cat([noisy, conditions["label_map"]], 1) if "label_map" in conditions else noisy
    return network(inputs, timesteps, class_labels=conditions.get("class_labels"), return_dict=False)[0]

"""Training of a diffusion model: adapters for MONAI's `SupervisedTrainer`, and the end of the stage.

Sources:
    Ho et al. 2020, arXiv 2006.11239 (noise prediction); Salimans and Ho 2022, arXiv 2202.00512 (v-prediction);
    Hang et al. 2023, arXiv 2303.09556 (min-SNR weighting); Lipman et al. 2022, arXiv 2210.02747 (flow matching).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ignite.distributed as idist
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.training_utils import compute_snr
from monai.data.meta_tensor import MetaTensor
from monai.engines.utils import PrepareBatch
from monai.inferers.inferer import Inferer
from torch.nn.functional import pixel_unshuffle

from tskd_monai.data.task import Task
from tskd_monai.networks.cost import count_parameters
from tskd_monai.synthesis.diffusion import (
    NoiseScheduler,
    check_condition,
    label_map_condition,
    position_condition,
    predict,
)
from tskd_monai.synthesis.ema import EmaHandler
from tskd_monai.synthesis.pipeline_folder import save_diffusion_pipeline
from tskd_monai.training.history import TrainingHistory
from tskd_monai.training.precision import PrecisionInferer
from tskd_monai.training.record import write_record

VALUE_TOLERANCE = 0.01  # interpolation slightly overshoots [0, 1]; unnormalised images exceed it by far


def snr_weights(noise_scheduler: NoiseScheduler, snr_range: Sequence[float] | None) -> torch.Tensor:
    """Returns the weight of each noise level in the loss, (T,).

    The squared error of the clean image is weighted by the signal-to-noise ratio (SNR), clamped to a range. In terms of
    the network's target, the weight is the clamped SNR for "sample", divided by SNR for "epsilon" and by SNR + 1 for
    "v_prediction". The range (0, 5) is min-SNR-5 (Hang et al. 2023). With a lower end above 0, the noisiest levels,
    which determine the outline of an image, are not learned last.

    Args:
        noise_scheduler: noise schedule from `build_noise_scheduler`.
        snr_range: (low, high); None: weight 1 at every level, in terms of the network's target.

    Raises:
        ValueError: when the range is empty, or given with "flow", whose levels have equal weights.
    """
    steps = noise_scheduler.config.num_train_timesteps
    if snr_range is None:
        return torch.ones(steps)
    if isinstance(noise_scheduler, FlowMatchEulerDiscreteScheduler):
        raise ValueError(f"Expected no snr_range with prediction_type flow, found {snr_range}; leave it at None.")
    if len(snr_range) != 2 or not 0 <= snr_range[0] < snr_range[1]:
        raise ValueError(f"Expected snr_range as [low, high] with 0 <= low < high, found {snr_range}.")
    ratio = compute_snr(noise_scheduler, torch.arange(steps))
    clamped = ratio.clamp(*snr_range)
    divisor = {"sample": torch.ones_like(ratio), "epsilon": ratio, "v_prediction": ratio + 1}
    return clamped / divisor[noise_scheduler.config.prediction_type]


class DiffusionTarget(NamedTuple):
    """Target of the network (B, C·p², H/p, W/p), and the weight of each image in the loss (B,)."""

    values: torch.Tensor
    weights: torch.Tensor


class DiffusionLoss(torch.nn.Module):
    """Mean squared error, each image weighted by its noise level."""

    def forward(self, prediction: torch.Tensor, target: DiffusionTarget) -> torch.Tensor:
        """Returns the loss, a scalar.

        Args:
            prediction: output of the network, (B, C·p², H/p, W/p).
            target: target of the same shape, with weights.
        """
        errors = (prediction - target.values).square().flatten(1).mean(1)
        return (errors * target.weights).mean()


class DiffusionPrepareBatch(PrepareBatch):
    """Prepares (noisy image, target, (timesteps,), conditions) from a batch of images, for `SupervisedTrainer`.

    With x the image in [-1, 1], ε standard normal, t uniform and ᾱ the schedule, the noisy image is
    √ᾱ_t·x + √(1 - ᾱ_t)·ε; the target is ε, v = √ᾱ_t·ε - √(1 - ᾱ_t)·x, or x, by the schedule's prediction type.
    For "flow" it is (1 - σ)·x + σ·ε with σ = (t + 1) / T, and the target is ε - x.
    Noise and timesteps come from torch's global generator of the batch's device.

    Args:
        noise_scheduler: noise schedule from `build_noise_scheduler`.
        patch_size: patch size of the U-Net.
        snr_range: range of `snr_weights`.
        condition: condition that the U-Net was built for.
        num_classes: number of classes of the label maps, background included.
        image_key: key of the images in the batch, (B, C, H, W) in [0, 1]. Depending on the condition, the batch also
            holds `position` (B,) in [0, 1] or `label` (B, 1, H, W), class indices.
    """

    def __init__(
        self,
        noise_scheduler: NoiseScheduler,
        patch_size: int = 1,
        snr_range: Sequence[float] | None = None,
        condition: str = "none",
        num_classes: int | None = None,
        image_key: str = "image",
    ) -> None:
        check_condition(condition, num_classes)
        self.noise_scheduler, self.patch_size, self.image_key = noise_scheduler, patch_size, image_key
        self.condition, self.num_classes = condition, num_classes
        self.weights = snr_weights(noise_scheduler, snr_range)

    def __call__(
        self,
        batchdata: Mapping[str, torch.Tensor],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,  # arguments of Tensor.to, part of the interface
    ) -> tuple[torch.Tensor, DiffusionTarget, tuple[torch.Tensor], dict[str, Any]]:
        """Returns noisy images (B, C·p², H/p, W/p), the target, timesteps (B,), and the conditioning inputs.

        Raises:
            ValueError: when the image values are outside [0, 1].
        """
        images = _plain(batchdata[self.image_key]).to(device=device, non_blocking=non_blocking, **kwargs)
        clean = pixel_unshuffle(_to_symmetric(images), self.patch_size)
        noise = torch.randn_like(clean)
        levels = torch.randint(0, len(self.weights), (clean.shape[0],), device=clean.device)
        noisy, timesteps, values = self._diffuse(clean, noise, levels)
        target = DiffusionTarget(values, self.weights.to(clean.device)[levels])
        return noisy, target, (timesteps,), self._conditions(batchdata, clean.device)

    def _diffuse(
        self, clean: torch.Tensor, noise: torch.Tensor, levels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns noisy images, their timesteps, and the target of the network."""
        if isinstance(self.noise_scheduler, FlowMatchEulerDiscreteScheduler):
            timesteps = levels + 1
            sigma = (timesteps / len(self.weights)).view(-1, 1, 1, 1)
            return (1 - sigma) * clean + sigma * noise, timesteps, noise - clean
        noisy = self.noise_scheduler.add_noise(clean, noise, levels)
        prediction_type = self.noise_scheduler.config.prediction_type
        if prediction_type == "v_prediction":
            return noisy, levels, self.noise_scheduler.get_velocity(clean, noise, levels)
        return noisy, levels, noise if prediction_type == "epsilon" else clean

    def _conditions(self, batchdata: Mapping[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
        if self.condition == "slice_position":
            return position_condition(batchdata["position"].to(device))
        if self.condition == "label_map" and self.num_classes is not None:
            labels = _plain(batchdata["label"]).to(device)
            return label_map_condition(labels, self.num_classes, self.patch_size)
        return {}


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.as_tensor() if isinstance(tensor, MetaTensor) else tensor


def _to_symmetric(images: torch.Tensor) -> torch.Tensor:
    """Maps images from [0, 1] to [-1, 1].

    Raises:
        ValueError: when values are outside [0, 1] or NaN.
    """
    low, high = (float(value) for value in torch.aminmax(images))
    if not (low >= -VALUE_TOLERANCE and high <= 1 + VALUE_TOLERANCE):
        raise ValueError(f"Expected images in [0, 1] for diffusion, found [{low:.4g}, {high:.4g}]; normalise them.")
    return images.clamp(0, 1) * 2 - 1


class DiffusionInferer(Inferer):
    """Runs a diffusers U-Net on noisy images and returns the float32 prediction as a tensor.

    Args:
        precision: "float32"; "bfloat16", nearly twice as fast where the CPU or GPU supports it; or "auto".
        device: device of the network.
    """

    def __init__(self, precision: str = "float32", device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.autocast = PrecisionInferer(precision, device)
        self.precision = self.autocast.precision

    def __call__(
        self,
        inputs: torch.Tensor,
        network: Callable[..., Any],
        *args: Any,  # (timesteps,), part of the interface
        **kwargs: Any,
    ) -> torch.Tensor:
        """Returns the network's prediction, shaped as `inputs`.

        Args:
            inputs: noisy images (B, C·p², H/p, W/p).
            network: the U-Net, or a wrapper of it such as DDP.
            args: the timesteps (B,).
            kwargs: conditioning inputs.
        """
        (timesteps,) = args
        return self.autocast(inputs, lambda noisy: predict(network, noisy, timesteps, kwargs))


def finish_diffusion(
    ema: EmaHandler,
    noise_scheduler: NoiseScheduler,
    history: TrainingHistory,
    output_dir: str | Path,
    task: Task,
    settings: Mapping[str, Any],
    inputs: Mapping[str, str],
) -> None:
    """Writes the averaged model as the diffusers folder `pipeline/`, and `record.json`.

    Args:
        ema: moving average of the trained network.
        noise_scheduler: noise schedule of the training run.
        history: history of the training run.
        output_dir: output folder of the stage.
        task: task whose images the model samples.
        settings: options of the run, for the record.
        inputs: files for the record, by name.
    """
    if idist.get_rank():
        return
    network = ema.averaged_network()
    record = {"task_hash": task.hash, "image_size": list(task.image_size), "channels": task.channels}
    save_diffusion_pipeline(Path(output_dir) / "pipeline", network, noise_scheduler, record)
    results = {
        "seconds": history.rows[-1]["seconds"],
        "train_loss": history.rows[-1]["train_loss"],
        "parameters": count_parameters(network),
    }
    write_record(Path(output_dir) / "record.json", "diffusion_synthesis", settings, inputs, results)

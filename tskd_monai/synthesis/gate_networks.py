"""Networks of the gates of a transfer set: the encoder of the features, and the teacher with its confidence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from tskd_monai.data.task import Task
from tskd_monai.networks.encoders import ImageEncoder
from tskd_monai.networks.pretrained import build_encoder
from tskd_monai.networks.teacher_folder import load_teacher, noted_weights, read_teacher_record


@dataclass(frozen=True)
class GateEncoder:
    """An encoder whose features the gates compare.

    Attributes:
        name: name shown in the report.
        network: on `device`, in evaluation mode.
        device: device of the network.
    """

    name: str
    network: ImageEncoder
    device: str | torch.device

    @torch.inference_mode()
    def features(self, pixels: torch.Tensor, batch_size: int = 8) -> np.ndarray:
        """Returns the image embeddings averaged over the image, (N, d).

        Args:
            pixels: images (N, C, H, W) in [0, 1].
            batch_size: images in one forward pass.
        """
        batches = pixels.split(batch_size)
        pooled = [self.network(batch.to(self.device)).image_embeddings.float().mean((2, 3)) for batch in batches]
        return torch.cat(pooled).cpu().numpy()


def gate_encoder(
    task: Task,
    teacher_dir: str | Path | None,
    encoder: str,
    encoder_weights: str | Path | None,
    device: str | torch.device = "cpu",
) -> GateEncoder:
    """Returns the encoder of the gates: the teacher's encoder before tuning, or a named encoder.

    Args:
        task: task with the image size.
        teacher_dir: folder of the teacher; None: the named encoder.
        encoder: name of the encoder if there is no teacher.
        encoder_weights: weights of the encoder, or the current path of the teacher's encoder weights; None: the path in
            the teacher's record.
        device: device of the encoder.
    """
    if teacher_dir is not None:
        spec = read_teacher_record(teacher_dir)["spec"]
        encoder = spec["encoder"]
        encoder_weights = encoder_weights or noted_weights(Path(teacher_dir), encoder, spec["encoder_weights"])
    network = build_encoder(encoder, encoder_weights, task.image_size)
    return GateEncoder(encoder, network.to(device).eval().requires_grad_(False), device)


def gate_teacher(
    task: Task,
    teacher_dir: str | Path | None,
    encoder_weights: str | Path | None = None,
    device: str | torch.device = "cpu",
) -> nn.Module | None:
    """Returns the teacher whose confidence is measured; None without a teacher folder."""
    if teacher_dir is None:
        return None
    return load_teacher(teacher_dir, encoder_weights, task_hash=task.hash).to(device)


def class_mean_confidence(logits: torch.Tensor) -> torch.Tensor:
    """Returns the confidence of each image, (B,), in (0, 1].

    It is the mean probability of the predicted class, averaged within each predicted class and then over these classes,
    so that a small organ counts as much as the background.

    Args:
        logits: (B, num_classes, H, W).
    """
    probability, predicted = logits.softmax(1).max(1)
    classes = torch.nn.functional.one_hot(predicted, logits.shape[1]).flatten(1, 2).float()
    pixels = classes.sum(1)
    sums = torch.einsum("bp,bpk->bk", probability.flatten(1), classes)
    means = torch.where(pixels > 0, sums / pixels.clamp(min=1), 0.0)
    return means.sum(1) / (pixels > 0).sum(1)


@torch.inference_mode()
def teacher_confidence(
    teacher: Callable[[torch.Tensor], torch.Tensor],
    images: torch.Tensor,
    batch_size: int = 8,
    device: str | torch.device = "cpu",
) -> np.ndarray:
    """Returns the confidence of a teacher in each image, (N,).

    Args:
        teacher: maps images (B, C, H, W) in [0, 1] to logits; on `device`, in evaluation mode.
        images: (N, C, H, W).
        batch_size: images in one forward pass.
        device: device of the teacher.
    """
    batches = images.split(batch_size)
    return torch.cat([class_mean_confidence(teacher(batch.to(device)).float()).cpu() for batch in batches]).numpy()
